package host

import "slices"

// WentBack returns the snapshot that the guest went back to, with what was made for it, if none
// was taken since; else nil. libvirt names files of its own then, restore one of ours.
func (d *Domain) WentBack() *Snapshot {
	for i := range d.Snapshots {
		if s := &d.Snapshots[i]; s.Current && (d.newer(s) || s.revertedByLibvirt()) {
			return s
		}
	}
	return nil
}

// newer tells whether a snapshot was taken after s: one that descends from it does so by a child of its.
func (d *Domain) newer(s *Snapshot) bool {
	for i := range d.Snapshots {
		if o := &d.Snapshots[i]; o.Time.After(s.Time) || o.Parent == s.Name {
			return true
		}
	}
	return false
}

// revertedByLibvirt tells whether files that libvirt's own revert has made are on the states
// of s.
func (s *Snapshot) revertedByLibvirt() bool {
	return s.Ours() && slices.ContainsFunc(s.Disks, func(sd SnapshotDisk) bool { return sd.Reverted != "" || IsReverted(sd.Overlay) })
}

// SinceWentBack returns the snapshot that the guest went back to if the layer at path is what it
// writes to since, or nil.
func (d *Domain) SinceWentBack(path string) *Snapshot {
	for i := range d.Disks {
		if disk := &d.Disks[i]; len(disk.Chain) > 0 && !disk.ReadOnly && disk.Active().Path == path {
			return d.WentBack()
		}
	}
	return nil
}
