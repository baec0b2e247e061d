package host

import (
	"slices"
	"time"
)

// A Snapshot is what libvirt keeps about one.
type Snapshot struct {
	Name, Parent string
	Time         time.Time
	Description  string
	Current      bool
	Internal     bool   // its state is inside the images
	Memory       string `json:",omitempty"` // the file with the memory that the guest had, as libvirt keeps it; "" for none
	Disks        []SnapshotDisk
}

// A SnapshotDisk is one disk in a snapshot's metadata.
type SnapshotDisk struct {
	Target   string
	Overlay  string   // the file that came into being with the snapshot; "" when the disk was left out
	State    []string // the disk's chain in the stored configuration, base first: its last is the layer with the state
	Format   string   `json:",omitempty"` // of the last of State, in the stored configuration
	Internal bool     `json:",omitempty"` // the state is inside the image that is the last of State
	Inactive []string // the same in the stored persistent configuration, where there is one
	Reverted string   `json:",omitempty"` // the file on its state that libvirt's own revert has made, where the guest went back to it last
	Cut      bool     // State goes on below its first entry: the metadata does not list the whole chain

	Stored string `json:",omitempty"` // of a plan: what the metadata says that Overlay is; "" for Overlay itself
}

// OverlayOf returns the path of the file that came into being with s on target, or "".
func (s *Snapshot) OverlayOf(target string) string {
	for i := range s.Disks {
		if s.Disks[i].Target == target {
			return s.Disks[i].Overlay
		}
	}
	return ""
}

// InOrderTaken returns the snapshots in the order in which they were taken,
// parents before children. A single line needs no clock; where a revert has
// made branches, times decide between them.
func InOrderTaken(snaps []Snapshot) []Snapshot {
	left := slices.Clone(snaps)
	taken := make([]Snapshot, 0, len(left))
	for len(left) > 0 {
		next := 0
		for i := range left {
			ready, best := !Listed(left, left[i].Parent), !Listed(left, left[next].Parent)
			if ready && (!best || left[i].Time.Before(left[next].Time)) {
				next = i
			}
		}
		taken = append(taken, left[next])
		left = slices.Delete(left, next, next+1)
	}
	return taken
}

// Listed tells whether there is a snapshot of that name.
func Listed(snaps []Snapshot, name string) bool {
	return slices.ContainsFunc(snaps, func(s Snapshot) bool { return s.Name == name })
}

// CloneSnapshots copies snapshots with their disks, so that these can be changed.
func CloneSnapshots(snaps []Snapshot) []Snapshot {
	c := slices.Clone(snaps)
	for i := range c {
		c[i].Disks = slices.Clone(c[i].Disks)
	}
	return c
}

// Survivor returns the nearest snapshot above one that goes and which stays, or "".
func Survivor(d *Domain, drops []string, going string) string {
	s := d.Snapshot(going)
	for range d.Snapshots { // parents may go round in a circle
		if s == nil {
			break
		}
		if s.Name != going && !slices.Contains(drops, s.Name) {
			return s.Name
		}
		s = d.Snapshot(s.Parent)
	}
	return ""
}

// Descends tells whether the snapshot was taken above the one of that name.
func (d *Domain) Descends(s *Snapshot, name string) bool {
	up := d.Snapshot(s.Parent)
	for range d.Snapshots { // parents may go round in a circle
		if up == nil || up.Name == name {
			return up != nil
		}
		up = d.Snapshot(up.Parent)
	}
	return false
}

// Snapshot returns the domain's snapshot of that name, or nil.
func (d *Domain) Snapshot(name string) *Snapshot {
	for i := range d.Snapshots {
		if d.Snapshots[i].Name == name {
			return &d.Snapshots[i]
		}
	}
	return nil
}
