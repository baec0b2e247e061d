package rotate

import "slices"

// inOrderTaken returns the snapshots in the order in which they were taken,
// parents before children. A single line needs no clock; where a revert has
// made branches, times decide between them.
func inOrderTaken(snaps []Snapshot) []Snapshot {
	left := slices.Clone(snaps)
	taken := make([]Snapshot, 0, len(left))
	for len(left) > 0 {
		next := 0
		for i := range left {
			ready, best := !listed(left, left[i].Parent), !listed(left, left[next].Parent)
			if ready && (!best || left[i].Time.Before(left[next].Time)) {
				next = i
			}
		}
		taken = append(taken, left[next])
		left = slices.Delete(left, next, next+1)
	}
	return taken
}

func listed(snaps []Snapshot, name string) bool {
	return slices.ContainsFunc(snaps, func(s Snapshot) bool { return s.Name == name })
}
