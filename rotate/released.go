package rotate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// The overlays of snapshots that virt-rotate dropped are on record until they
// are merged. Without the record, a layer whose snapshot libvirt no longer
// lists is left alone: the list may have been lost, and the state be wanted.

// releasedRecord is one domain's record on disk.
type releasedRecord struct {
	Version int          `json:"version"`
	Domain  string       `json:"domain"`
	UUID    string       `json:"uuid"`
	Layers  []intentFile `json:"layers"`
}

// releasedVersion is the layout of the records; another one releases nothing.
const releasedVersion = 1

func releasedPath(stateDir, uuid string) string {
	return filepath.Join(stateDir, "released", uuid+".json")
}

// loadReleased reads the record of a domain. None, or one that cannot be
// read, releases nothing.
func loadReleased(stateDir, uuid string) []intentFile {
	data, err := os.ReadFile(releasedPath(stateDir, uuid))
	if err != nil {
		return nil
	}
	var r releasedRecord
	if json.Unmarshal(data, &r) != nil || r.Version != releasedVersion || r.UUID != uuid {
		return nil
	}
	return r.Layers
}

// saveReleased puts the record on stable storage, or removes it when it is empty.
func saveReleased(stateDir string, d *Domain, layers []intentFile) error {
	path := releasedPath(stateDir, d.UUID)
	if len(layers) == 0 {
		if err := vfs.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	data, err := json.MarshalIndent(releasedRecord{releasedVersion, d.Name, d.UUID, layers}, "", "  ")
	if err != nil {
		return err
	}
	return vfs.WriteFile(path, append(data, '\n'), 0o600)
}

// release records the overlays of the named snapshots of d, before their
// metadata goes.
func (r *domainRun) release(d *Domain, names []string) error {
	layers := stillThere(d, r.w.Released[d.UUID])
	for i := range d.Snapshots {
		if slices.Contains(names, d.Snapshots[i].Name) {
			layers = append(layers, freedBy(d, &d.Snapshots[i])...)
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
	return r.saveReleased(d, stillThere(d, r.w.Released[d.UUID]))
}

func (r *domainRun) saveReleased(d *Domain, layers []intentFile) error {
	if slices.Equal(layers, r.w.Released[d.UUID]) {
		return nil
	}
	return saveReleased(r.Observer.StateDir, d, layers)
}

// stillThere returns those of the layers that are in a chain of d or on a branch.
func stillThere(d *Domain, layers []intentFile) []intentFile {
	return slices.DeleteFunc(slices.Clone(layers), func(f intentFile) bool {
		if d.uses(f.Path) {
			return false
		}
		info, err := vfs.Lstat(f.Path)
		return err != nil || info.ID.Ino != f.ID.Ino
	})
}

// freedBy lists the layers that are free once nobody else keeps them when a snapshot
// goes: its overlays, and its states on branches, which no disk has in its chain.
func freedBy(d *Domain, s *Snapshot) []intentFile {
	files := overlaysOf(d, s)
	for _, sd := range s.Disks {
		path := stateLayer(d, &sd)
		if path == "" || d.uses(path) || !isOverlay(path) {
			continue
		}
		if info, err := vfs.Lstat(path); err == nil {
			files = append(files, intentFile{Path: path, ID: info.ID})
		}
	}
	return files
}

// overlaysOf lists the overlays of a snapshot that are in chains of d, or within branches.
func overlaysOf(d *Domain, s *Snapshot) []intentFile {
	var files []intentFile
	for _, sd := range s.Disks {
		disk, _ := overlayIn(d.Disks, sd.Overlay)
		if disk == nil {
			disk = branchWith(d.Branches, sd.Overlay)
			if disk != nil && disk.Active().Path == sd.Overlay {
				continue // what is in it, somebody has gone back from: no snapshot ever had that
			}
		}
		if disk != nil && sd.Overlay != "" {
			files = append(files, intentFile{Path: sd.Overlay, ID: disk.Chain[disk.index(sd.Overlay)].ID})
		}
	}
	return files
}

// released tells whether the layer is on record as released, or in an intent. Device numbers
// may change when the host restarts; path and inode do not.
func (w *World) released(d *Domain, l *Layer) bool {
	free := slices.Clone(w.Released[d.UUID])
	if in := w.Intents[d.UUID]; in != nil {
		for _, m := range in.Merges {
			if m.Graft == nil { // what it merges is on record
				free = append(free, m.Gone...)
			}
		}
	}
	return slices.ContainsFunc(free, func(f intentFile) bool { return f.Path == l.Path && f.ID.Ino == l.ID.Ino })
}
