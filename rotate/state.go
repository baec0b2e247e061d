package rotate

import (
	"errors"
	"fmt"
)

// ErrNoSuchSnapshot says that a snapshot was named that the domain does not have.
var ErrNoSuchSnapshot = errors.New("no such snapshot")

// WithSnapshot returns the domain of that name, which has the snapshot.
func (w *World) WithSnapshot(domain, snapshot string) (*Domain, error) {
	d := w.Domain(domain)
	if d == nil {
		return nil, fmt.Errorf("%s: %w", domain, ErrNoSuchDomain)
	}
	if d.Snapshot(snapshot) == nil {
		return nil, fmt.Errorf("%s: %s: %w", domain, snapshot, ErrNoSuchSnapshot)
	}
	return d, nil
}

// A StateLayer is the layer that holds a snapshot's state of one disk.
type StateLayer struct {
	Target  string
	Path    string
	Format  string   // as libvirt has it; "" for a layer that is in no disk's chain any more
	Chain   []string // paths of what it builds on, as far as that is known, base first
	Written bool     // the disk writes to it: it does not hold the state for long
}

// States returns where the states of a snapshot are: the layers below the
// overlays that came into being with it. Disks that it left out are not there.
func (d *Domain) States(s *Snapshot) []StateLayer {
	var states []StateLayer
	for i := range s.Disks {
		sd := &s.Disks[i]
		path := stateLayer(d, sd)
		if path == "" {
			continue
		}
		state := StateLayer{Target: sd.Target, Path: path, Chain: sd.State}
		if disk := diskOf(d, sd.Target); disk != nil {
			if k := disk.index(path); k >= 0 {
				state.Format, state.Chain = disk.Chain[k].Format, paths(disk.Chain[:k])
				state.Written = k == len(disk.Chain)-1
			}
		}
		states = append(states, state)
	}
	return states
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
