package convert

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// RecordName is the file, in a directory of new images, in which is kept what they were made
// of.
const RecordName = ".virt-rotate-convert.json"

// asideSuffix is added to the name of an image that is not what it should be any more, or not
// yet: nobody takes it for the disk.
const asideSuffix = ".unfinished"

// CheckBegun refuses to make an image anew that a run with a record was broken off in: two would
// want the name then.
func CheckBegun(fsys vfs.FS, path string) error {
	if _, err := fsys.Lstat(path + asideSuffix); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return refusedf(path+asideSuffix, "a run with --again was broken off: the same command goes on; or move this file away if it is not needed")
}

// A Record is what is known of the images of a directory.
type Record struct {
	Version int               `json:"version"`
	Images  map[string]*Entry `json:"images"` // by file name

	// Domain is the one that was defined on the images; "": none was.
	Domain string `json:"domain,omitempty"`
	// Litter are images in whose place others have come: names, and their inodes.
	Litter map[string]uint64 `json:"litter,omitempty"`

	fs   vfs.FS
	path string
}

// An Entry is what is known of one image.
type Entry struct {
	From    string          `json:"from"`              // path of the node that it was made of
	Node    json.RawMessage `json:"node,omitempty"`    // that node, as it was
	Sources string          `json:"sources"`           // a sum of all that it was made of; "": unlike anything
	Backing string          `json:"backing,omitempty"` // the file name of what it builds on
	Hidden  bool            `json:"hidden,omitempty"`  // the node's content is nobody's: only others build on it
	View    string          `json:"view,omitempty"`    // a sum of what it reads as; "": as Sources
	Size    int64           `json:"size"`              // virtual, bytes
	File    FileID          `json:"file"`              // as it was made
	// Unfinished tells that the image is being changed, and Next how it is when it is complete.
	Unfinished bool   `json:"unfinished,omitempty"`
	Next       FileID `json:"next,omitzero"`
	// Was is the name that the image has until it gets the one of this entry; its content stays.
	Was string `json:"was,omitempty"`
}

func (e *Entry) view() string { return cmp.Or(e.View, e.Sources) }

// A FileID is a file as it was left: whoever writes to it changes that.
type FileID struct {
	ID       vfs.ID    `json:"id"`
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
}

const recordVersion = 1

// ReadRecord reads what is known of the images in dir; nothing where nothing is.
func ReadRecord(fsys vfs.FS, dir string) (*Record, error) {
	r := &Record{fs: fsys, Version: recordVersion, Images: map[string]*Entry{}, Litter: map[string]uint64{}, path: filepath.Join(dir, RecordName)}
	b, err := fsys.ReadFile(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(b, r)
	}
	if err == nil && r.Version != recordVersion {
		err = fmt.Errorf("version %d is not known here", r.Version)
	}
	if err != nil {
		return nil, fmt.Errorf("%s, the record of what was converted: %w; convert into another directory", r.path, err)
	}
	if r.Litter == nil {
		r.Litter = map[string]uint64{}
	}
	for name := range r.Litter {
		if !isName(name) {
			return nil, fmt.Errorf("%s, the record of what was converted: %q is no name of a file; convert into another directory", r.path, name)
		}
	}
	for name, e := range r.Images {
		if e == nil || name != filepath.Base(name) || !isName(e.Backing) || !isName(e.Was) {
			return nil, fmt.Errorf("%s, the record of what was converted: %q is no name of a file; convert into another directory", r.path, name)
		}
	}
	return r, nil
}

// isName tells whether a name leads to a file of the directory, or is none.
func isName(name string) bool { return name == "" || name == filepath.Base(name) }

// Define notes that a domain is going to be defined on the images.
func (r *Record) Define(domain string) error {
	r.Domain = domain
	return r.save()
}

// save makes the record durable.
func (r *Record) save() error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return r.fs.WriteFile(r.path, append(b, '\n'), newImageMode)
}

func (r *Record) image(name string) string { return filepath.Join(filepath.Dir(r.path), name) }

func (r *Record) aside(name string) string { return r.image(name) + asideSuffix }

// fileAt is the file at path; none is the zero FileID.
func (r *Record) fileAt(path string) (FileID, error) {
	info, err := r.fs.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return FileID{}, nil
	}
	return FileID{info.ID, info.Size, info.ModTime.UTC()}, err
}

// equal compares, but for the number of the device, which a reboot can change.
func (f FileID) equal(o FileID) bool {
	return f.ID.Ino == o.ID.Ino && f.Size == o.Size && f.Modified.Equal(o.Modified)
}

// A place is where an image of the record is found.
type place int

const (
	gone      place = iota
	there           // as it was left
	aside           // under the name of what is not finished
	elsewhere       // as it was left, under the name that it had, or on its way
)

// settle finds an image. One that was complete and had its name when the run ended, but not
// on record yet, is taken for what it is. It is refused if somebody has changed it.
func (r *Record) settle(name string) (place, error) {
	e := r.Images[name]
	now, err := r.fileAt(r.image(name))
	if err != nil {
		return gone, err
	}
	left, err := r.fileAt(r.aside(name))
	if err != nil {
		return gone, err
	}
	switch {
	case now != (FileID{}) && e.Next != (FileID{}) && now.equal(e.Next):
		if left.ID.Ino == e.File.ID.Ino && left != (FileID{}) {
			r.Litter[name] = e.File.ID.Ino
		}
		e.File, e.Next, e.Unfinished, e.Was = e.Next, FileID{}, false, ""
		return there, nil
	case e.Was != "":
		return r.settleMoved(name)
	case now != (FileID{}) && now.equal(e.File):
		return there, nil
	case now != (FileID{}):
		return gone, refusedf(r.image(name), "it has changed since it was made, as when a guest has run on it: nothing is written over that; "+
			"move it away if it is not needed, with what builds on it, or convert into another directory")
	case left != (FileID{}) && e.Unfinished && left.ID.Ino == e.File.ID.Ino:
		return aside, nil
	case left != (FileID{}):
		return gone, refusedf(r.aside(name), "it is not the file that was left there: move it away")
	}
	return gone, nil
}

// sweep removes the images in whose place others have come, and forgets them.
func (r *Record) sweep() error {
	if len(r.Litter) == 0 {
		return nil
	}
	for name, inode := range r.Litter {
		f, err := r.fileAt(r.aside(name))
		if err != nil {
			return err
		}
		if f.ID.Ino != inode || f == (FileID{}) {
			continue
		}
		if err := r.fs.RemoveExact(r.aside(name), f.ID); err != nil {
			return err
		}
	}
	clear(r.Litter)
	return r.save()
}
