package hosttest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// onBranch tells whether a state of the snapshot is in no disk's chain: its overlay
// is in none, or builds on nothing any more.
func onBranch(d *host.Domain, s *host.Snapshot) bool {
	return slices.ContainsFunc(s.Disks, func(sd host.SnapshotDisk) bool { return sd.Overlay != "" && !d.HasBelow(sd.Overlay) })
}

// inherit does what libvirt 9.0 does to a child of a snapshot that goes: its
// stored disks become those of the parent, as if a merge had been done.
func inherit(child, gone *host.Snapshot) {
	for i := range child.Disks {
		for _, sd := range gone.Disks {
			if c := &child.Disks[i]; c.Target == sd.Target && sd.Overlay != "" {
				c.State, c.Inactive = slices.Clone(sd.State), slices.Clone(sd.Inactive)
			}
		}
	}
}

// leave does what it does to all descendants: the overlays of the one that goes leave
// their stored chains. Those on chains of disks are spared here: their redefinition
// has more to do then.
func leave(descendant, gone *host.Snapshot) {
	for i := range descendant.Disks {
		for _, sd := range gone.Disks {
			if c := &descendant.Disks[i]; c.Target == sd.Target && sd.Overlay != "" {
				c.State, c.Inactive = without(c.State, sd.Overlay), without(c.Inactive, sd.Overlay)
			}
		}
	}
}

func without(list []string, path string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(p string) bool { return p == path })
}

func (h *Host) KeepMetadata(_ context.Context, domain string) (func() error, error) {
	kept := h.Find(domain).Observed(nil).Snapshots
	return func() error {
		return h.call("put-back", func() error { h.Find(domain).Snapshots = kept; return nil })
	}, nil
}

func (h *Host) Rehearse(_ context.Context, domain string, snapshots []string) error {
	return h.call("rehearse", func() error {
		if d := h.Find(domain); d.BeyondUs && len(snapshots) > 0 {
			return errors.New("an element that this version does not know")
		}
		return nil
	})
}

func (h *Host) RehearseConfig(_ context.Context, domain, snapshot string) error {
	return h.call("rehearse configuration", func() error {
		if odd := h.Find(domain).Oddities; odd != "" && (odd == snapshot || odd == "configuration" && snapshot == "") {
			return errors.New("an element that this version does not know")
		}
		return nil
	})
}

func (h *Host) Redefine(_ context.Context, domain string, fix host.SnapshotFix) error {
	return h.call("redefine", func() error {
		d := h.Find(domain)
		if !d.State.Live() && d.Checkpoints > 0 {
			return errors.New("cannot perform block operations while checkpoint exists") // libvirt's words
		}
		i := slices.IndexFunc(d.Snapshots, func(s host.Snapshot) bool { return s.Name == fix.Snapshot })
		if i < 0 {
			return fmt.Errorf("no snapshot %s", fix.Snapshot)
		}
		if fix.Description != "" {
			d.Snapshots[i].Description = fix.Description
		}
		if fix.Parent != nil {
			d.Snapshots[i].Parent = *fix.Parent
		}
		for k := range d.Snapshots {
			d.Snapshots[k].Current = d.Snapshots[k].Current && !fix.Current || fix.Current && k == i
		}
		for k := range d.Snapshots[i].Disks {
			sd := &d.Snapshots[i].Disks[k]
			if path := fix.Overlays[sd.Target]; path != "" {
				sd.Overlay = path
			}
			if chain := fix.Chains[sd.Target]; chain != nil {
				sd.State, sd.Cut = host.Paths(chain), false
				if sd.Inactive != nil {
					sd.Inactive = host.Paths(chain)
				}
			}
		}
		return nil
	})
}
