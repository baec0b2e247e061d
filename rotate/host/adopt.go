package host

import "time"

// An InternalState is one of the states that a single image holds: an internal snapshot, or
// what the guest sees now, which has no ID and no name.
type InternalState struct {
	ID, Name string // not to be trusted
	Time     time.Time
	Memory   int64            // bytes of the saved memory of a guest that ran
	Bytes    int64            // of data in a layer with it that builds on what the image builds on
	On       map[string]int64 // the same for a layer that builds on an earlier state, by its ID
}

// An External says how the metadata of a snapshot must read whose states have become layers.
type External struct {
	Snapshot string
	Parent   string // "" for none
	Current  bool
	Chains   map[string][]Layer // target → the chain of its state, base first
	Overlays map[string]string  // target → the layer above its state

	// Of one that libvirt does not list yet:
	New         bool
	Time        time.Time
	Description string
}

// A Replacement is the metadata of such a snapshot, as text that only libvirt and its host read.
type Replacement struct {
	External

	Before string // "" for one that libvirt does not list
	After  string
}

// Reads tells whether the snapshot's metadata is as x has it, as far as the layers go.
func (x *External) Reads(s *Snapshot) bool {
	if s == nil || s.Internal {
		return false
	}
	for target, overlay := range x.Overlays {
		if s.OverlayOf(target) != overlay {
			return false
		}
	}
	return true
}
