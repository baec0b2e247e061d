package hosttest

import (
	"context"
	"errors"
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
