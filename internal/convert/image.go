package convert

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// newImageMode is for the owner alone: who may read a disk may read all that is
// on it.
const newImageMode = 0o600

// An Image is an image file that is being made.
type Image struct {
	fs   vfs.FS
	path string
	id   vfs.ID
	file vfs.File // open, until it is closed or taken over
	kept bool     // it has taken the place of another file, which is gone
}

// Make creates an empty image at path, where nothing may be yet.
func Make(fsys vfs.FS, path string, m formats.Maker, o formats.New) (*Image, error) {
	f, err := fsys.Create(path, newImageMode)
	if errors.Is(err, fs.ErrExist) {
		return nil, alreadyThere(path)
	}
	if err != nil {
		return nil, err
	}
	n := &Image{fs: fsys, path: path, file: f}
	info, err := f.Stat()
	n.id = info.ID
	if err == nil {
		if err = m.Create(f, o); err != nil {
			err = fmt.Errorf("%s: %w", path, err)
		}
	}
	if err != nil {
		return nil, errors.Join(err, n.Discard())
	}
	return n, nil
}

func alreadyThere(path string) error {
	return &chain.RefusedError{Path: path, Reason: "it is there already: it is left as it is"}
}

// Path is where the image lies now.
func (n *Image) Path() string { return n.path }

// Finish makes room for what is not written yet, and then name and content durable.
func (n *Image) Finish(ctx context.Context, format *formats.Format, room chain.Room) error {
	if room != chain.RoomNone {
		src, err := format.Open(n.file, nil)
		if err != nil {
			return err
		}
		to, ok := src.(chain.Target)
		if !ok {
			return fmt.Errorf("%s: images of format %s cannot be written", n.path, format.Name)
		}
		if err := errors.Join(to.Prepare(), chain.MakeRoom(ctx, to, room, 0, nil)); err != nil {
			return err
		}
	}
	return n.Close()
}

// Close makes name and content durable.
func (n *Image) Close() error {
	err := n.file.Close()
	n.file = nil
	if err == nil {
		err = n.fs.SyncDir(filepath.Dir(n.path))
	}
	return err
}

// Discard removes the file, unless nothing else would be left under its name.
func (n *Image) Discard() error {
	var err error
	if n.file != nil {
		err = n.file.Close()
		n.file = nil
	}
	if n.kept {
		return err
	}
	return errors.Join(err, n.fs.RemoveExact(n.path, n.id))
}

// rename gives a finished image its name, where nothing may be.
func (n *Image) rename(path string) error {
	err := named(n.fs, n.path, path)
	if err == nil {
		n.path = path
	}
	return err
}

func named(fsys vfs.FS, from, to string) error {
	err := vfs.RenameNewOn(fsys, from, to)
	if errors.Is(err, fs.ErrExist) {
		return alreadyThere(to)
	}
	return err
}

// TempName is a free name in dir that matches vfs.TempPattern.
func TempName(dir string) string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return filepath.Join(dir, strings.Replace(vfs.TempPattern, "*", hex.EncodeToString(b[:]), 1))
}

// CheckFree refuses a path where anything is.
func CheckFree(fsys vfs.FS, path string) error {
	_, err := fsys.Lstat(path)
	var kind *vfs.KindError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil, errors.As(err, &kind):
		return alreadyThere(path)
	}
	return err
}
