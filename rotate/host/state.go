package host

import (
	"slices"
)

// KnownFormat is what libvirt has, or what overlays of ours and of its reverts have; "" where it is not known.
func (s *StateLayer) KnownFormat() string {
	if s.Format == "" && IsMade(s.Path) {
		return "qcow2"
	}
	return s.Format
}

// IsState tells whether a snapshot has its state in the layer at path.
func (d *Domain) IsState(path string) bool {
	return slices.ContainsFunc(d.Snapshots, func(s Snapshot) bool {
		return slices.ContainsFunc(s.Disks, func(sd SnapshotDisk) bool { return StateOf(d, &sd) == path })
	})
}

// IsReverted tells whether libvirt has the file at path on record as one that its own revert
// to a snapshot has made.
func (d *Domain) IsReverted(path string) bool {
	return path != "" && slices.ContainsFunc(d.Snapshots, func(s Snapshot) bool {
		return slices.ContainsFunc(s.Disks, func(sd SnapshotDisk) bool { return sd.Reverted == path })
	})
}

// StateOf returns the layer that holds a snapshot's state of one disk: the
// one below the overlay that came into being with it. Metadata may be stale
// after a crash; the chain is not.
func StateOf(d *Domain, sd *SnapshotDisk) string {
	if sd.Overlay == "" {
		return ""
	}
	for i := range d.Disks {
		if k := d.Disks[i].Index(sd.Overlay); k > 0 {
			return d.Disks[i].Chain[k-1].Path
		}
	}
	if len(sd.State) > 0 {
		return sd.State[len(sd.State)-1]
	}
	return ""
}

// A StateLayer is the layer that holds a snapshot's state of one disk.
type StateLayer struct {
	Target  string
	Path    string
	Format  string   // as libvirt has it, in a disk's chain or with the snapshot; "" where it does not say
	Chain   []string // paths of what it builds on, as far as that is known, base first
	Written bool     // the disk writes to it: it does not hold the state for long
}

// States returns where the states of a snapshot are: the layers below the
// overlays that came into being with it. Disks that it left out are not there.
func (d *Domain) States(s *Snapshot) []StateLayer {
	var states []StateLayer
	for i := range s.Disks {
		sd := &s.Disks[i]
		path := StateOf(d, sd)
		if path == "" {
			continue
		}
		state := StateLayer{Target: sd.Target, Path: path, Chain: sd.State}
		if n := len(sd.State); n > 0 && sd.State[n-1] == path {
			state.Format = sd.Format
		}
		if disk := DiskOf(d, sd.Target); disk != nil {
			if k := disk.Index(path); k >= 0 {
				state.Format, state.Chain = disk.Chain[k].Format, Paths(disk.Chain[:k])
				state.Written = k == len(disk.Chain)-1
			}
		}
		states = append(states, state)
	}
	return states
}
