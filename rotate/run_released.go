package rotate

import (
	"fmt"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// release records the overlays of the named snapshots of d, before their
// metadata goes.
func (r *domainRun) release(d *host.Domain, names []string) error {
	layers := r.onRecord(d)
	for i := range d.Snapshots {
		if slices.Contains(names, d.Snapshots[i].Name) {
			layers = append(layers, r.freedByDrop(d, &d.Snapshots[i])...)
		}
	}
	if err := r.saveReleased(d, layers); err != nil {
		return fmt.Errorf("record of released layers: %w", err)
	}
	return r.noteTips(d, names)
}

// tidyReleased forgets layers that are no longer there.
func (r *domainRun) tidyReleased(name string) error {
	d := r.w.Domain(name)
	if d == nil {
		return nil
	}
	return r.saveReleased(d, r.onRecord(d))
}

// noteReverts records the files that libvirt's own revert to a snapshot of ours has made:
// libvirt forgets them when a snapshot is taken on top.
func (r *domainRun) noteReverts(d *host.Domain) error {
	if len(revertsOf(d)) == 0 {
		return nil
	}
	if err := r.saveReleased(d, r.onRecord(d)); err != nil {
		return fmt.Errorf("record of what libvirt has made when it went back to a snapshot: %w", err)
	}
	if len(r.w.Released[d.UUID]) != len(r.onRecord(d)) { // it is news
		_ = r.leave(d, r.intentNow(d), nil) // without it the next owner merges less
	}
	return nil
}

// onRecord lists the layers that are to be merged or deleted once nobody keeps them, as far as
// that is known without what goes now.
func (r *domainRun) onRecord(d *host.Domain) []journal.File {
	return onceEach(append(stillThere(d, r.w.Released[d.UUID]), revertsOf(d)...))
}

// revertsOf lists the layers of d's disks that libvirt's revert to a snapshot of ours has made.
func revertsOf(d *host.Domain) []journal.File {
	var files []journal.File
	for i := range d.Snapshots {
		if !d.Snapshots[i].Ours() {
			continue
		}
		for _, sd := range d.Snapshots[i].Disks {
			if disk, k := decide.OverlayIn(d.Disks, sd.Reverted); k > 0 && !disk.ReadOnly && sd.Overlay != "" {
				files = append(files, journal.File{Path: sd.Reverted, ID: disk.Chain[k].ID})
			}
		}
	}
	return files
}

func (r *domainRun) saveReleased(d *host.Domain, layers []journal.File) error {
	if slices.Equal(layers, r.w.Released[d.UUID]) {
		return nil
	}
	return journal.SaveReleased(r.Observer.StateDir, d, layers)
}

// stillThere returns those of the layers that are in a chain of d or on a branch.
func stillThere(d *host.Domain, layers []journal.File) []journal.File {
	return slices.DeleteFunc(slices.Clone(layers), func(f journal.File) bool {
		if d.Uses(f.Path) {
			return false
		}
		info, err := vfs.Lstat(f.Path)
		return err != nil || info.ID.Ino != f.ID.Ino
	})
}

// freedByDrop lists the layers that are free when a snapshot is dropped. Those of somebody else's
// are, too, when a person has asked for its end.
func (r *domainRun) freedByDrop(d *host.Domain, s *host.Snapshot) []journal.File {
	files := freedBy(d, s)
	for i := range files {
		files[i].Asked = !s.Ours()
	}
	return files
}

// freedBy lists the layers that are free once nobody else keeps them when a snapshot
// goes: its overlays, and its states on branches, which no disk has in its chain.
func freedBy(d *host.Domain, s *host.Snapshot) []journal.File {
	files := overlaysOf(d, s)
	for _, sd := range s.Disks {
		path := host.StateOf(d, &sd)
		if path == "" || d.Uses(path) || !host.IsMade(path) {
			continue
		}
		if info, err := vfs.Lstat(path); err == nil {
			files = append(files, journal.File{Path: path, ID: info.ID})
		}
	}
	return files
}

// overlaysOf lists the overlays of a snapshot that are in chains of d, or within branches.
func overlaysOf(d *host.Domain, s *host.Snapshot) []journal.File {
	var files []journal.File
	for _, sd := range s.Disks {
		disk, _ := decide.OverlayIn(d.Disks, sd.Overlay)
		if disk == nil {
			disk = host.BranchWith(d.Branches, sd.Overlay)
			if disk != nil && disk.Active().Path == sd.Overlay {
				continue // what is in it, somebody has gone back from: no snapshot ever had that
			}
		}
		if disk != nil && !disk.ReadOnly && sd.Overlay != "" {
			files = append(files, journal.File{Path: sd.Overlay, ID: disk.Chain[disk.Index(sd.Overlay)].ID})
		}
	}
	return files
}
