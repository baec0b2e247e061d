package rotate

import (
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// noteLost puts on record what is seen to be lost.
func (r *domainRun) noteLost(d *host.Domain) error {
	var sure []journal.Destroyed
	for _, x := range r.w.Destroyed(d) {
		if x.Sure {
			sure = append(sure, x)
		}
	}
	known := r.w.Lost[d.UUID]
	same := func(a, b journal.Destroyed) bool {
		return a.Snapshot == b.Snapshot && a.Disk == b.Disk && a.Base == b.Base
	}
	if slices.EqualFunc(sure, known, same) {
		return nil
	}
	for i := range sure {
		if k := slices.IndexFunc(known, func(x journal.Destroyed) bool { return same(x, sure[i]) }); k >= 0 {
			sure[i].Since = known[k].Since
		} else if sure[i].Since.IsZero() {
			sure[i].Since = r.Clock().UTC()
		}
	}
	record := r.w.Record(d)
	record.Snapshots = sure
	if err := journal.SaveLost(r.Observer.StateDir, d, record); err != nil {
		return err
	}
	_ = r.leave(d, r.intentNow(d), nil) // the next run does it, where that fails
	return nil
}

// noteTips puts on record which layers of disks that were taken out of the domain are left
// once the named snapshots have gone.
func (r *domainRun) noteTips(d *host.Domain, names []string) error {
	record := r.w.Record(d)
	before := len(record.Tips)
	record.Tips = slices.Clone(record.Tips)
	for _, name := range names {
		for _, sd := range d.Snapshot(name).Disks {
			if f := r.leftTip(d, &sd); f != nil && !slices.ContainsFunc(record.Tips, func(t journal.Tip) bool { return t.Path == f.Path }) {
				record.Tips = append(record.Tips, journal.Tip{File: *f, Disk: sd.Target})
			}
		}
	}
	if len(record.Tips) == before {
		return nil
	}
	return journal.SaveLost(r.Observer.StateDir, d, record)
}

// leftTip returns the overlay of a snapshot's disk if it is in no chain and on no record,
// and no snapshot has its state in it.
func (r *domainRun) leftTip(d *host.Domain, sd *host.SnapshotDisk) *journal.File {
	if sd.Overlay == "" || d.Uses(sd.Overlay) || d.IsState(sd.Overlay) {
		return nil
	}
	info, err := vfs.Lstat(sd.Overlay)
	if err != nil || r.w.IsReleased(d, &host.Layer{Path: sd.Overlay, ID: info.ID}) {
		return nil
	}
	return &journal.File{Path: sd.Overlay, ID: info.ID}
}
