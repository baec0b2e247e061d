package xapi

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// settle makes what came a node: on its parent here, hidden if it is a base copy, of the
// disk's size, and without errors.
func (p *Puller) settle(ctx context.Context, s, below *State, to *part) error {
	kind, err := kindOf(to.f)
	if err != nil {
		return &StreamError{err.Error()}
	}
	switch {
	case kind == vhd.Differencing && below == nil:
		return &StreamError{"it is a difference, and all was asked for"}
	case kind == vhd.Dynamic && below != nil:
		err = p.compare(ctx, s, below, to)
	case kind == vhd.Differencing:
		err = p.bind(s, below, to)
	default:
		err = to.change(func(f vfs.File) (vhd.Target, error) { return vhd.Open(f) }, func(i *vhd.Image) error { return p.mark(s, i) })
	}
	if err != nil {
		return err
	}
	return check(to.path, s.VDI.Size)
}

// kindOf reads the type without the parent, whose names may lead nowhere.
func kindOf(f vfs.File) (vhd.Type, error) {
	size, err := f.Size()
	if err != nil {
		return 0, err
	}
	var b [footerBytes]byte
	if _, err := f.ReadAt(b[:], size-footerBytes); err != nil {
		return 0, err
	}
	return vhd.TypeOf(&b)
}

// mark hides a base copy: its own content is nobody's, what builds on it has the names.
func (p *Puller) mark(s *State, i *vhd.Image) error {
	if !s.Snapshot {
		return nil
	}
	return i.SetHidden(true)
}

// bind lets a difference build on the base copy of the state below.
func (p *Puller) bind(s, below *State, to *part) error {
	parent := fileOf(below.VDI)
	info, err := p.look(parent)
	if err != nil {
		return err
	}
	if info == nil {
		return fmt.Errorf("its base copy %s is not there", parent)
	}
	err = to.change(func(f vfs.File) (vhd.Target, error) { return rebound(f, parent, info.UUID.String()) },
		func(i *vhd.Image) error { return p.mark(s, i) })
	var bad *vhd.FormatError
	if errors.As(err, &bad) {
		return &StreamError{err.Error()}
	}
	return err
}

func rebound(f vfs.File, name, id string) (vhd.Target, error) {
	i, err := vhd.Rebind(f, name, id)
	if i == nil {
		return nil, err
	}
	return i, err
}

// compare puts a difference in the place of a whole disk: what it needs to read the same on
// the base copy below.
func (p *Puller) compare(ctx context.Context, s, below *State, to *part) error {
	if err := to.close(); err != nil {
		return err
	}
	full := part{dir: to.dir, path: to.path}
	next, err := p.newPart()
	if err != nil {
		return err
	}
	to.path, to.f = next.path, next.f
	return errors.Join(p.difference(ctx, s, below, full.path, to), vfs.Remove(full.path))
}

func (p *Puller) difference(ctx context.Context, s, below *State, full string, to *part) error {
	parent := fileOf(below.VDI)
	store := formats.Store(vfs.OS(), nil)
	disk, err := store.Chain(full, "vhd")
	if err != nil {
		return err
	}
	base, err := store.Chain(filepath.Join(p.Dir, parent), "vhd")
	if err != nil {
		return err
	}
	o := vhd.CreateOptions{Size: disk[0].Image.VirtualSize, Backing: parent, BackingFormat: "vhd", ParentID: base[len(base)-1].Image.ID}
	if err := vhd.Create(to.f, o); err != nil {
		return err
	}
	return to.change(func(f vfs.File) (vhd.Target, error) { return vhd.Open(f) }, func(i *vhd.Image) error {
		if err := store.Increment(ctx, &chain.Increment{Base: base, Disk: disk}, i, nil); err != nil {
			return err
		}
		return p.mark(s, i)
	})
}

// check wants a VHD of the size of the disk, which may be rounded up to whole blocks, and
// nothing wrong with it.
func check(path string, size int64) error {
	f, err := vfs.OS().Open(path, false)
	if err != nil {
		return err
	}
	defer f.Close()
	length, err := f.Size()
	if err != nil {
		return err
	}
	s, err := vhd.Look(f, length)
	if err != nil {
		return &StreamError{err.Error()}
	}
	if s.Size < size || s.Size > (size+blockBytes-1)/blockBytes*blockBytes {
		return &StreamError{fmt.Sprintf("it is of a disk of %d bytes, and the host says that it has %d", s.Size, size)}
	}
	found, err := vhd.CheckReader(f, length)
	if err != nil {
		return &StreamError{err.Error()}
	}
	if found.Corruptions > 0 && len(found.Problems) > 0 {
		return &StreamError{found.Problems[0].String()}
	}
	return nil
}
