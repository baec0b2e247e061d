package rotate

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// That another guest wrote to the base of a domain's snapshots cannot be seen any more once
// it has stopped: what was seen is put on record, until the user gives the snapshots up. Of
// those that he has given up, images that virt-rotate did not make stay as files, and are
// on record as of no use: they build on an image, but need nothing of it.

// A lostRecord is one domain's record on disk.
type lostRecord struct {
	Version   int          `json:"version"`
	Domain    string       `json:"domain"`
	UUID      string       `json:"uuid"`
	Snapshots []Destroyed  `json:"snapshots"`
	Useless   []intentFile `json:"useless"`
	// Tips are the active layers of disks that were taken out of the domain: what is in
	// them no snapshot ever had.
	Tips []tip `json:"tips"`
}

// A tip is the last layer of a disk that was taken out.
type tip struct {
	intentFile
	Disk string `json:"disk"`
}

// lostVersion is the layout of the records.
const lostVersion = 1

func lostPath(stateDir, uuid string) string { return filepath.Join(stateDir, "lost", uuid+".json") }

// loadLost reads the record of a domain. None, or one that cannot be read, is empty.
func loadLost(stateDir, uuid string) lostRecord {
	var r lostRecord
	data, err := os.ReadFile(lostPath(stateDir, uuid))
	if err != nil || json.Unmarshal(data, &r) != nil || r.Version != lostVersion || r.UUID != uuid {
		return lostRecord{}
	}
	return r
}

func saveLost(stateDir string, d *Domain, r lostRecord) error {
	path := lostPath(stateDir, d.UUID)
	if len(r.Snapshots)+len(r.Useless)+len(r.Tips) == 0 {
		if err := vfs.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	r.Version, r.Domain, r.UUID = lostVersion, d.Name, d.UUID
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return vfs.WriteFile(path, append(data, '\n'), 0o600)
}

// recall takes what is on record of a domain into the world.
func (w *World) recall(stateDir, uuid string) {
	if layers := loadReleased(stateDir, uuid); layers != nil {
		w.Released[uuid] = layers
	}
	r := loadLost(stateDir, uuid)
	if len(r.Snapshots) > 0 {
		w.Lost[uuid] = r.Snapshots
	}
	if len(r.Useless) > 0 {
		w.Useless[uuid] = r.Useless
	}
	if len(r.Tips) > 0 {
		w.Tips[uuid] = r.Tips
	}
}

// record is what is on record of a domain.
func (w *World) record(d *Domain) lostRecord {
	return lostRecord{Snapshots: w.Lost[d.UUID], Useless: w.Useless[d.UUID], Tips: w.Tips[d.UUID]}
}

// useless tells whether the file at path is on record as of no use.
func (w *World) useless(path string, info vfs.Info) bool {
	for _, files := range w.Useless {
		if slices.ContainsFunc(files, func(f intentFile) bool { return f.Path == path && f.ID.Ino == info.ID.Ino }) {
			return true
		}
	}
	return false
}

// noteLost puts on record what is seen to be lost.
func (r *domainRun) noteLost(d *Domain) error {
	var sure []Destroyed
	for _, x := range r.w.Destroyed(d) {
		if x.Sure {
			sure = append(sure, x)
		}
	}
	known := r.w.Lost[d.UUID]
	same := func(a, b Destroyed) bool { return a.Snapshot == b.Snapshot && a.Disk == b.Disk && a.Base == b.Base }
	if slices.EqualFunc(sure, known, same) {
		return nil
	}
	for i := range sure {
		if k := slices.IndexFunc(known, func(x Destroyed) bool { return same(x, sure[i]) }); k >= 0 {
			sure[i].Since = known[k].Since
		} else if sure[i].Since.IsZero() {
			sure[i].Since = r.Clock().UTC()
		}
	}
	record := r.w.record(d)
	record.Snapshots = sure
	return saveLost(r.Observer.StateDir, d, record)
}

// noteTips puts on record which layers of disks that were taken out of the domain are left
// once the named snapshots have gone.
func (r *domainRun) noteTips(d *Domain, names []string) error {
	record := r.w.record(d)
	before := len(record.Tips)
	record.Tips = slices.Clone(record.Tips)
	for _, name := range names {
		for _, sd := range d.Snapshot(name).Disks {
			if f := r.leftTip(d, &sd); f != nil && !slices.ContainsFunc(record.Tips, func(t tip) bool { return t.Path == f.Path }) {
				record.Tips = append(record.Tips, tip{*f, sd.Target})
			}
		}
	}
	if len(record.Tips) == before {
		return nil
	}
	return saveLost(r.Observer.StateDir, d, record)
}

// leftTip returns the overlay of a snapshot's disk if it is in no chain and on no record,
// and no snapshot has its state in it.
func (r *domainRun) leftTip(d *Domain, sd *SnapshotDisk) *intentFile {
	if sd.Overlay == "" || d.uses(sd.Overlay) || d.isState(sd.Overlay) {
		return nil
	}
	info, err := vfs.Lstat(sd.Overlay)
	if err != nil || r.w.released(d, &Layer{Path: sd.Overlay, ID: info.ID}) {
		return nil
	}
	return &intentFile{Path: sd.Overlay, ID: info.ID}
}

// isState tells whether a snapshot has its state in the layer at path.
func (d *Domain) isState(path string) bool {
	return slices.ContainsFunc(d.Snapshots, func(s Snapshot) bool {
		return slices.ContainsFunc(s.Disks, func(sd SnapshotDisk) bool { return stateLayer(d, &sd) == path })
	})
}

// tipAt returns whose last layer the file at path is, or nil.
func (w *World) tipAt(path string) (*tip, string) {
	for i := range w.Domains {
		tips := w.Tips[w.Domains[i].UUID]
		for k := range tips {
			if tips[k].Path == path {
				return &tips[k], w.Domains[i].Name
			}
		}
	}
	return nil, ""
}
