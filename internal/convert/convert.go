package convert

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A Conversion is one image that is to be made out of others.
type Conversion struct {
	Nodes  []chain.Node // base first
	Own    bool         // only what the last one has itself
	Layers int          // and those below it, so many in all; 0: one

	// State is the one that is converted; nil: what the guest sees now.
	State func(image chain.Source) (chain.Source, error)

	Path   string // of the new image
	Format *formats.Format
	New    formats.New
	Maker  formats.Maker
	Old    *Old           // what it takes the place of; nil: nothing may be there
	Into   *chain.Into    // what is written over; nil: an image is made
	Renew  *chain.Renewal // what is made like the source again, and gets its name; nil: an image is made
	Room   chain.Room
	Verify bool // compare it with the source before it gets its name

	On  *Conversion // makes the image that this one builds on, if any
	Err error       // why it could not be done, where others go on

	fs    vfs.FS // of what is made like the source again
	Bytes int64  // of data: at most, before; copied, after
	Made  *Image // under a temporary name, until it is named
}

// Source is the image that is converted.
func (c *Conversion) Source() chain.Node { return c.Nodes[len(c.Nodes)-1] }

// A Converter carries conversions out.
type Converter struct {
	Store    *chain.Store
	Sparse   bool // leave zeros out that are data
	RawOnly  bool // but only those of raw sources
	Compress bool
	Bitmaps  bool // the new images get the persistent bitmaps

	// Naming, if not nil, is called by ConvertSound when all images are complete, before the
	// first of them gets its name.
	Naming func(sound []*Conversion) error

	// Progress is told of a piece of work and its bytes. Done is told of each that is
	// copied, end that there are no more.
	Progress func(what string, total int64) (done func(n int64), end func())
}

// Measure counts the data that there is to copy.
func (v *Converter) Measure(ctx context.Context, all []*Conversion) error {
	for _, c := range all {
		if c.State != nil {
			c.Bytes = c.New.Size // at most
			continue
		}
		err := v.Store.Map(ctx, c.Nodes, 0, math.MaxInt64, func(m chain.Mapping) error {
			if m.Data && !m.Zero && (!c.Own || m.Depth < max(1, c.Layers)) {
				c.Bytes += m.Length
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Convert makes all images under temporary names and names them in the end, the lowest
// first. When something fails none is left.
func (v *Converter) Convert(ctx context.Context, all []*Conversion) (err error) {
	var total int64
	for _, c := range all {
		total += c.Bytes
	}
	done, end := v.Progress("convert", total)
	for _, c := range all {
		c.Bytes = 0
		err = v.makeOne(ctx, c, func(n int64) {
			c.Bytes += n
			done(n)
		})
		if err == nil && c.Verify {
			err = v.verify(ctx, c)
		}
		if err != nil {
			break
		}
	}
	end()
	return NameAll(all, err)
}

// NameAll gives the new images their names, unless err says that something failed:
// then, or when that fails, none is left.
func NameAll(all []*Conversion, err error) error {
	for _, c := range all {
		if err == nil {
			err = c.name()
		}
	}
	if err == nil {
		return nil
	}
	for _, c := range all {
		if c.Made != nil {
			err = errors.Join(err, c.Made.Discard())
		}
	}
	return err
}

// name gives the image its name.
func (c *Conversion) name() error {
	switch {
	case c.Into != nil:
		return nil
	case c.Old != nil:
		return c.Old.replace(c.Made)
	case c.Renew != nil:
		return named(c.fs, c.Renew.Image.Path, c.Path)
	}
	return c.Made.rename(c.Path)
}

// makeOne makes one image beside its place.
func (v *Converter) makeOne(ctx context.Context, c *Conversion, done func(int64)) error {
	if c.Into != nil {
		return v.into(ctx, c, done)
	}
	if c.Renew != nil {
		if err := v.Store.Renew(ctx, c.Renew, done); err != nil {
			return fmt.Errorf("%s is not finished: %w", c.Renew.Image.Path, err)
		}
		return nil
	}
	to, err := v.Begin(c)
	if err != nil {
		return err
	}
	options := chain.ConvertOptions{Sparse: v.Sparse, RawOnly: v.RawOnly, Own: c.Own, Layers: c.Layers, State: c.State, Bitmaps: v.Bitmaps}
	if packer, ok := to.(chain.Packer); ok && v.Compress {
		err = v.Store.Compress(ctx, c.Nodes, packer, options, done)
	} else {
		err = v.Store.Convert(ctx, c.Nodes, to, options, done)
	}
	if err == nil {
		err = chain.MakeRoom(ctx, to, c.Room, 0, nil)
	}
	return errors.Join(err, to.Close())
}

// Begin makes an empty image beside its place, and opens it.
func (v *Converter) Begin(c *Conversion) (to chain.Target, err error) {
	c.Made, err = Make(v.Store.FS, TempName(filepath.Dir(c.Path)), c.Maker, c.New)
	if err != nil {
		return nil, err
	}
	if c.Old != nil {
		if err := vfs.TakeAttributes(c.Made.path, c.Path); err != nil {
			return nil, err
		}
	}
	src, err := c.Format.Open(c.Made.file, nil)
	if err != nil {
		return nil, err
	}
	c.Made.file = nil
	to, ok := src.(chain.Target)
	if !ok {
		return nil, errors.Join(fmt.Errorf("images of format %s cannot be written", c.Format.Name), src.Close())
	}
	return to, nil
}

// verify compares a new image, which has no name yet, with its source.
func (v *Converter) verify(ctx context.Context, c *Conversion) error {
	n, err := v.Store.Node(c.Made.path, c.Format.Name)
	if err != nil {
		return err
	}
	show, end := v.Progress("verify", c.New.Size)
	same, err := v.Store.Compare(ctx, c.Nodes, []chain.Node{n}, false, show)
	end()
	if err == nil && !same.Same {
		err = errors.New("the new image differs from the snapshot")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.Path, err)
	}
	return nil
}
