// Package formats is the registry of image formats: what virt-rotate can do with images of
// each kind, asked for by name.
//
// Each format has files of its own here, over a package that knows nothing of this one. Who
// asks the registry learns results that all formats share, and no type of one format's
// package. A new format is its package, its file here, and its line in All.
package formats

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/imgerr"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A Format is what can be done with images of one kind. What is nil or false cannot.
type Format struct {
	chain.Format
	Extension string       // of the names of its files, with the dot
	Overlays  bool         // images can have backing files
	Packs     bool         // clusters can be compressed
	Rooms     []chain.Room // that can be made for what is not written yet

	// Details reads what info tells of this kind only; size is that of the file.
	Details func(r io.ReaderAt, size int64) (Details, error)
	// Check looks for inconsistencies; the file is locked by the caller.
	Check func(f vfs.File, r Repair) (CheckResult, error)

	// Compact gives space back that an image has no use for, in place; CompactTo writes it
	// anew without. The files are locked by the caller.
	Compact   func(ctx context.Context, f vfs.File, o CompactOptions) (CompactResult, error)
	CompactTo func(ctx context.Context, to, f vfs.File, o CompactOptions) (CompactResult, error)

	// States are the internal snapshots of an open image, and read it: it stays open.
	States func(src chain.Source) ([]chain.State, error)

	// BitmapsSize is what the persistent bitmaps of an image take in one with clusters of
	// that size; nil where it cannot have any.
	BitmapsSize func(r io.ReaderAt, size, cluster int64) (*int64, error)

	// Bitmaps are the persistent bitmaps of an image; nil where there can be none.
	Bitmaps func(r io.ReaderAt, size int64) ([]Bitmap, error)

	// Amend changes what an image is, and not what the guest reads. The file is locked.
	Amend func(f vfs.File, a Amendment) error

	// TakeSnapshot makes an internal snapshot, DeleteSnapshot gives the one at a place of
	// Details.Snapshots up, and RevertTo goes back to it. The file is locked by the caller.
	TakeSnapshot             func(f vfs.File, name string, now time.Time) error
	DeleteSnapshot, RevertTo func(f vfs.File, at int) error

	// New is a new image to be, as it is by default. Options are the names of those that
	// create takes with -o, Options of all formats among them.
	New     func() Maker
	Options []string
	// NewID is an identity for a new image, where images have one.
	NewID func() string

	// BuildsOn tells why an image cannot build on below, which can be read; "" if it can.
	BuildsOn func(below chain.Node) (reason string)

	// Layer tells of the layer of a guest what rotation wants to know.
	Layer func(path string, info vfs.Info) (chain.Image, error)
	// Glance tells of a file with the format's magic what it builds on, where
	// chain.GlanceAt cannot.
	Glance func(r io.ReaderAt, size int64) chain.Image
}

// All is the table of all formats.
func All() []Format {
	return []Format{qcow2Format(), vhdFormat(), rawFormat()}
}

// A NameError means that a format was asked for that there is none of.
type NameError struct{ Name string }

func (e *NameError) Error() string {
	var names []string
	for _, f := range All() {
		names = append(names, f.Name)
	}
	hint := ""
	if slices.Contains([]string{"vmdk", "vdi", "vhdx", "qcow", "qed", "parallels"}, e.Name) {
		hint = "; qemu-img convert makes an image of another format of one, or one of another"
	}
	return fmt.Sprintf("%q is not a format that virt-rotate reads and writes (%s)%s", e.Name, strings.Join(names, ", "), hint)
}

// Named finds a format by its name, or by the one that QEMU has for it.
func Named(name string) (*Format, error) {
	for _, f := range All() {
		if f.Name == name || chain.QEMUName(f.Name) == name {
			return &f, nil
		}
	}
	return nil, &NameError{name}
}

// Store knows all formats. Backing names may lead to allow, besides the directory of the
// image that the user names.
func Store(fsys vfs.FS, allow []string) *chain.Store {
	s := &chain.Store{FS: fsys, Allow: allow, RealPath: filepath.EvalSymlinks, Locate: chain.LocateVolumes(fsys)}
	for _, f := range All() {
		s.Formats = append(s.Formats, f.Format)
	}
	return s
}

// Unsupported tells whether err means that an image of whatever format has what is not
// worked on, and was left alone.
func Unsupported(err error) bool {
	var unsupported *imgerr.UnsupportedError
	return errors.As(err, &unsupported)
}

// CheckBuildsOn refuses to let the image of that format at path build on below, if it
// could not be read then.
func CheckBuildsOn(path, format string, below chain.Node) error {
	f, err := Named(format)
	if err != nil || f.BuildsOn == nil {
		return nil //nolint:nilerr // who opens the image tells of that
	}
	if reason := f.BuildsOn(below); reason != "" {
		return &chain.RefusedError{Path: path, Reason: reason}
	}
	return nil
}
