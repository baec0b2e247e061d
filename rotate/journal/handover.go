package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// On storage that several hosts have, whoever gets a guest next has to know what its host knew: the metadata of
// its snapshots, which libvirt keeps on one host, and what stands in the state directory. A Handover lies with
// the images for that. The host that has the guest goes by its own state directory; the next one reads the
// Handover once, when it takes the guest up, and it is another's word then: bounded, and checked.

// A Handover is what the next owner of a guest is to know, but for its snapshots' metadata.
type Handover struct {
	Version  int         `json:"version"`
	Domain   string      `json:"domain"`
	UUID     string      `json:"uuid"`
	By       string      `json:"by"`    // the ID of the host that wrote it
	Host     string      `json:"host"`  // its name
	Epoch    uint64      `json:"epoch"` // with which it had the guest: the highest counts
	Written  time.Time   `json:"written"`
	Names    []string    `json:"names"` // of the snapshots on record; nil: none is yet
	Sum      string      `json:"sum"`   // of what their metadata said, as this host reads it: SHA-256, in hexadecimal
	Tops     []string    `json:"tops"`  // the images that its disks write to
	Intent   *Intent     `json:"intent,omitempty"`
	Released []File      `json:"released,omitempty"`
	Lost     *LostRecord `json:"lost,omitempty"`
}

const (
	handoverVersion = 1
	// mostHandover is the size of one, in bytes: some 20,000 files.
	mostHandover = 8 << 20
)

// Handovers keeps them: a file for each guest, and one for its snapshots' metadata.
type Handovers struct{ dir string }

// HandoversIn are those in the directory of a storage where hosts tell each other.
func HandoversIn(records string) Handovers { return Handovers{records} }

// Path is the file of a guest, to be named to a person.
func (j Handovers) Path(uuid string) string { return filepath.Join(j.dir, "guests", uuid+".json") }

func (j Handovers) textsPath(uuid string) string {
	return filepath.Join(j.dir, "snapshots", uuid+".json")
}

// Write puts it on stable storage.
func (j Handovers) Write(h *Handover) error {
	h.Version = handoverVersion
	if h.Intent != nil {
		in := *h.Intent
		in.Version = in.layout()
		h.Intent = &in
	}
	return writeRecord(j.Path(h.UUID), h.UUID, h, mostHandover)
}

// Read returns that of a guest; fs.ErrNotExist for none.
func (j Handovers) Read(uuid string) (*Handover, error) {
	h := &Handover{}
	if err := readRecord(j.Path(uuid), uuid, h, mostHandover); err != nil {
		return nil, err
	}
	if why := h.wrong(uuid); why != "" {
		return nil, fmt.Errorf("%s: %s", j.Path(uuid), why)
	}
	return h, nil
}

// wrong says what is not as this version writes it.
func (h *Handover) wrong(uuid string) string {
	switch {
	case h.Version != handoverVersion:
		return fmt.Sprintf("version %d is not one of this version of virt-rotate", h.Version)
	case h.UUID != uuid, h.Lost != nil && (h.Lost.UUID != uuid || h.Lost.Version != lostVersion):
		return "it is of another domain, or of another version"
	case h.Intent != nil && (h.Intent.UUID != uuid || h.Intent.Version != h.Intent.layout()):
		return "what a run had begun is of another domain, or of another version"
	}
	for _, path := range h.paths() {
		if !filepath.IsAbs(path) || filepath.Clean(path) != path {
			return fmt.Sprintf("it names the file %q, which is no plain absolute path", path)
		}
	}
	return ""
}

// paths lists all files that it names.
func (h *Handover) paths() (all []string) {
	files := h.Released
	if h.Lost != nil {
		files = slices.Concat(files, h.Lost.Useless)
		for _, t := range h.Lost.Tips {
			files = append(files, t.File)
		}
	}
	for _, f := range files {
		all = append(all, f.Path)
	}
	if h.Intent != nil {
		all = append(all, h.Intent.paths()...)
	}
	return all
}

// refs are the files that the intent names, to be changed.
func (in *Intent) refs() (all []*File) {
	lists := [][]File{in.Created, in.Garbage}
	if in.Adoption != nil {
		lists = append(lists, in.Adoption.Made)
	}
	for i := range in.Merges {
		lists = append(lists, in.Merges[i].Gone)
		if g := in.Merges[i].Graft; g != nil {
			lists = append(lists, g.Next)
		}
	}
	for _, list := range lists {
		for i := range list {
			all = append(all, &list[i])
		}
	}
	for _, f := range []*File{in.Firmware, in.Memory} {
		if f != nil {
			all = append(all, f)
		}
	}
	return all
}

// texts is the metadata of a guest's snapshots.
type texts struct {
	Version   int                 `json:"version"`
	UUID      string              `json:"uuid"`
	Snapshots []host.SnapshotText `json:"snapshots"`
}

// WriteTexts puts the metadata of all snapshots of a guest on stable storage, parents first.
func (j Handovers) WriteTexts(uuid string, all []host.SnapshotText) error {
	if len(all) > mostMoved {
		return fmt.Errorf("%d snapshots are too many to be put on record", len(all))
	}
	return writeRecord(j.textsPath(uuid), uuid, texts{handoverVersion, uuid, all}, mostMove)
}

// ReadTexts returns the metadata of a guest's snapshots, parents first; none where none is on record.
func (j Handovers) ReadTexts(uuid string) ([]host.SnapshotText, error) {
	var t texts
	path := j.textsPath(uuid)
	err := readRecord(path, uuid, &t, mostMove)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if t.Version != handoverVersion || t.UUID != uuid {
		return nil, fmt.Errorf("%s: it is of another domain, or of another version of virt-rotate", path)
	}
	if why := wrongTexts(t.Snapshots); why != "" {
		return nil, fmt.Errorf("%s: %s", path, why)
	}
	return t.Snapshots, nil
}

// Merging lists what a merge that was begun has put, or is to put, into an image, to which the guest writes then. over tells
// whether that was done, and the guest moved.
func (h *Handover) Merging(into string) (gone []string, over bool) {
	if h == nil || h.Intent == nil {
		return nil, false
	}
	for i := range h.Intent.Merges {
		m := &h.Intent.Merges[i]
		if m.Kind() != KindCommit || m.Base != into {
			continue
		}
		for _, f := range m.Gone {
			gone = append(gone, f.Path)
		}
	}
	return gone, slices.Contains(h.Tops, into)
}

// MergesInto tells whether a merge into the image was begun.
func (h *Handover) MergesInto(path string) bool {
	return h != nil && h.Intent != nil && slices.ContainsFunc(h.Intent.Merges, func(m Merge) bool { return m.Base == path })
}

// Locate makes the files known as this host sees them, whose device numbers are others. One that is another file here, by its
// inode, is not the one that was meant: what was released or lost is left out then, and what an intent names is no file of
// its own any more, which deletes nothing. It fails where an intent names what is on no such storage.
func (h *Handover) Locate(on func(path string) bool) error {
	meant := func(f *File) bool { return on(f.Path) && f.locate() }
	h.Released = located(h.Released, meant)
	if h.Lost != nil {
		h.Lost.Useless = located(h.Lost.Useless, meant)
		h.Lost.Tips = locatedTips(h.Lost.Tips, meant)
	}
	if h.Intent == nil {
		return nil
	}
	for _, path := range h.Intent.paths() {
		if !on(path) {
			return fmt.Errorf("what a run had begun names %q, which is on no storage that hosts have together", path)
		}
	}
	for _, f := range h.Intent.refs() {
		if f.ID != (vfs.ID{}) && !f.locate() {
			f.ID.Dev = 0
		}
	}
	return nil
}

// located are those of the files that are meant, as this host sees them.
func located(files []File, meant func(*File) bool) (kept []File) {
	for _, f := range files {
		if meant(&f) {
			kept = append(kept, f)
		}
	}
	return kept
}

func locatedTips(tips []Tip, meant func(*File) bool) (kept []Tip) {
	for _, t := range tips {
		if meant(&t.File) {
			kept = append(kept, t)
		}
	}
	return kept
}

// locate finds the file on this host; false if it is not the one that was meant.
func (f *File) locate() bool {
	info, err := vfs.Lstat(f.Path)
	if err != nil || info.ID.Ino != f.ID.Ino {
		return false
	}
	f.ID = info.ID
	return true
}

// paths lists all that the intent names.
func (in *Intent) paths() (all []string) {
	for _, f := range in.refs() {
		all = append(all, f.Path)
	}
	for i := range in.Merges {
		for _, path := range []string{in.Merges[i].Base, in.Merges[i].Pull} {
			if path != "" {
				all = append(all, path)
			}
		}
	}
	return all
}
