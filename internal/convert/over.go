package convert

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// An Old file is one that a new image takes the place of: under its name there is the old
// one or the new one at any moment, each of them whole.
type Old struct {
	store *chain.Store
	node  chain.Node
	scan  []string
	file  vfs.File // locked
}

// HoldOld locks the file at path, if there is one, for a new image to take its place. Nobody
// may have to do with it: no process, no kernel, no other image, none of those that are
// read, and no merge that was interrupted.
func HoldOld(s *chain.Store, path string, read []chain.Node, scan []string) (*Old, error) {
	info, err := s.FS.Lstat(path)
	var kind *vfs.KindError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.As(err, &kind):
		return nil, refusedf(path, "it is a %s: name the file itself, or one that is not there", kind.Kind)
	case err != nil:
		return nil, err
	case info.IsBlock:
		return nil, refusedf(path, "it is a device: -n writes to what is there")
	case info.Links > 1:
		return nil, refusedf(path, "it has %d names, and would be replaced under this one only", info.Links)
	}
	o := &Old{store: s, node: chain.Node{Path: path, Info: info}, scan: scan}
	for _, n := range read {
		if n.Info.ID == info.ID {
			return nil, refusedf(path, "it is an image that is read: give the new one another name")
		}
	}
	return o, o.hold()
}

func refusedf(path, format string, args ...any) error {
	return &chain.RefusedError{Path: path, Reason: fmt.Sprintf(format, args...)}
}

func (o *Old) hold() error {
	_, err := vfs.Claim(o.node.Path)
	if err = errors.Join(err, o.store.NotMerged(o.node)); err != nil {
		return err
	}
	if o.file, err = o.store.FS.Open(o.node.Path, true); err != nil {
		return err
	}
	if err = o.file.Lock(vfs.LockWrite); err == nil {
		err = o.still()
	}
	if err != nil {
		return errors.Join(err, o.Release())
	}
	return nil
}

// still sees that the file is the one that is held, and that nobody has come to build on it.
func (o *Old) still() error {
	now, err := o.store.FS.Lstat(o.node.Path)
	if err != nil {
		return err
	}
	if now.ID != o.node.Info.ID || now.Links > 1 {
		return refusedf(o.node.Path, "it has changed meanwhile; try again")
	}
	return o.store.NobodyBuildsOn(o.node, o.scan)
}

// Release gives the old file free, under its name or not. There may be none.
func (o *Old) Release() error {
	if o == nil || o.file == nil {
		return nil
	}
	err := o.file.Close()
	o.file = nil
	return err
}

// replace gives the new image the name of the old one. It has its owner, mode and
// attributes already.
func (o *Old) replace(n *Image) error {
	if err := o.still(); err != nil {
		return err
	}
	if err := n.fs.Rename(n.path, o.node.Path); err != nil {
		return err
	}
	n.path, n.kept = o.node.Path, true
	return n.fs.SyncDir(filepath.Dir(n.path))
}
