package observe

import (
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// Destroyed lists the snapshots of d that are lost in this way, and those that are on
// record as such, in the order in which they were taken.
func (w *World) Destroyed(d *host.Domain) []journal.Destroyed {
	var found []journal.Destroyed
	for i := range d.Snapshots {
		s := &d.Snapshots[i]
		for _, sd := range s.Disks {
			if x := w.destroyedDisk(d, s, &sd); x != nil {
				found = append(found, *x)
			}
		}
	}
	return found
}

// destroyedDisk is about one disk of a snapshot; nil where it is sound.
func (w *World) destroyedDisk(d *host.Domain, s *host.Snapshot, sd *host.SnapshotDisk) *journal.Destroyed {
	path := host.StateOf(d, sd)
	if path == "" || sd.Overlay == "" {
		return nil
	}
	known := slices.IndexFunc(w.Lost[d.UUID], func(x journal.Destroyed) bool { return x.Snapshot == s.Name && x.Disk == sd.Target })
	x := w.writtenBelow(d, path)
	if known >= 0 && (x == nil || !x.Sure) {
		recorded := w.Lost[d.UUID][known] // a copy: the world stays as it is
		x = &recorded
	}
	if x == nil {
		return nil
	}
	x.Snapshot, x.Disk, x.Layer = s.Name, sd.Target, path
	return x
}

// writtenBelow tells of the image, at path or below it, that a disk writes to.
func (w *World) writtenBelow(d *host.Domain, path string) *journal.Destroyed {
	for l := w.Forest.Find(w.KeyOf(d, path)); l != nil; l = l.Parent {
		if !l.Active {
			continue
		}
		if own := host.DiskWith(d, l); own != nil {
			return w.byItself(d, own, l)
		}
		if other, target := w.LiveWriter(l); other != nil {
			return &journal.Destroyed{Base: l.Path, Writer: DiskKeeper(other.Name, target), Sure: true}
		}
	}
	return nil
}

// LiveWriter returns the running domain that writes to the layer, or nil. A template
// that is off is no writer.
func (w *World) LiveWriter(l *chain.Layer) (*host.Domain, string) {
	for i := range w.Domains {
		if d := &w.Domains[i]; d.State.Live() {
			if disk := host.DiskWith(d, l); disk != nil {
				return d, disk.Target
			}
		}
	}
	return nil, ""
}

// byItself tells of a domain whose own disk is what its snapshots build on. The newest
// write to a layer above tells when that came about; if the guest is off, and the image
// is older than that, it has not run since.
func (w *World) byItself(d *host.Domain, disk *host.Disk, l *chain.Layer) *journal.Destroyed {
	x := &journal.Destroyed{Base: l.Path, Writer: DiskKeeper(d.Name, disk.Target), Sure: true}
	for i := range d.Snapshots {
		for _, sd := range d.Snapshots[i].Disks {
			for _, path := range append(slices.Clone(sd.State), sd.Overlay) {
				if t := w.Written[path]; t.After(x.Since) && buildsOn(w.Forest.Find(w.KeyOf(d, path)), l) {
					x.Since = t
				}
			}
		}
	}
	if !d.State.Live() {
		x.Sure = !w.Written[l.Path].IsZero() && !w.Written[l.Path].Before(x.Since)
	}
	return x
}

// buildsOn tells whether layer l is above base.
func buildsOn(l, base *chain.Layer) bool {
	for l != nil && l != base {
		l = l.Parent
		if l == base {
			return true
		}
	}
	return false
}
