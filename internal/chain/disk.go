package chain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A BackingOpener opens the image that another one names as its backing file. Name and
// format are as the header has them, and so not to be trusted: it is up to the opener
// which names it follows, and to where. Format is "" if the header does not tell; a
// format that is guessed from the content lets a guest name any file of the host.
//
// It is called for one layer after the other, from the top down, so that it can
// remember where the image was that a relative name is relative to.
type BackingOpener func(name, format string) (Source, error)

// A Disk is an image with all that it builds on, read as what the guest sees. Reading
// is safe for concurrent use.
type Disk struct {
	mu     sync.Mutex // guards all
	layers []Source   // base first
	merged []Source   // by Commit: no part of the disk any more, and still open
	stack  *Stack
}

// OpenDisk opens what top builds on, by open, down to the base. The Disk takes over
// top and what open returned: Close closes them. After an error top is still the
// caller's, and the others are closed.
//
// A backing file that notes another identity than the image above it expects is a
// *RefusedError, as is a chain of more than 200 layers, or an encrypted layer.
func OpenDisk(top Source, open BackingOpener) (*Disk, error) {
	layers := []Source{top}
	fail := func(err error) (*Disk, error) { return nil, errors.Join(err, closeAll(layers[1:])) }
	for l := top; l.Image().Backing != ""; {
		if len(layers) == maxDepth {
			return fail(refused(pathOf(top), "the chain has more than %d layers", maxDepth))
		}
		below, err := openBelow(l, open)
		if below != nil {
			layers = append(layers, below)
		}
		if err != nil {
			return fail(err)
		}
		l = below
	}
	down := slices.Clone(layers)
	slices.Reverse(down)
	stack, err := NewStack(down...)
	if err != nil {
		return fail(err)
	}
	return &Disk{layers: down, stack: stack}, nil
}

func openBelow(l Source, open BackingOpener) (Source, error) {
	i := l.Image()
	if open == nil {
		return nil, refused(pathOf(l), "it has the backing file %q, and nobody has said how that is opened", i.Backing)
	}
	below, err := open(i.Backing, i.BackingFormat)
	if err != nil {
		return nil, fmt.Errorf("backing file %q: %w", i.Backing, err)
	}
	if is := below.Image().ID; i.BackingID != "" && is != i.BackingID {
		return below, refused(pathOf(l), "it was made on the image %s, and its backing file %q is another one, %q", i.BackingID, i.Backing, is)
	}
	return below, nil
}

func closeAll(layers []Source) error {
	var errs []error
	for _, l := range layers {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// Size is what the guest sees, in bytes.
func (d *Disk) Size() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stack.Size()
}

// Layers are the images, base first.
func (d *Disk) Layers() []Source {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.layers)
}

// ReadAt reads what the guest sees, as io.ReaderAt says.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	size := d.stack.Size()
	switch {
	case off < 0:
		return 0, fmt.Errorf("read at %d: before the disk", off)
	case off >= size:
		return 0, io.EOF
	}
	n, err := d.stack.ReadAt(p[:min(int64(len(p)), size-off)], off)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

// Extents goes through the disk: each Found begins where the one before ended, and may
// be in the same layer and of the same kind. After an error there is no more.
func (d *Disk) Extents() iter.Seq2[Found, error] {
	return func(yield func(Found, error) bool) {
		for off, size := int64(0), d.Size(); off < size; {
			f, err := d.find(off, size)
			if !yield(f, err) || err != nil {
				return
			}
			off = f.End()
		}
	}
}

func (d *Disk) find(off, end int64) (Found, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stack.Find(off, end)
}

// Close closes all layers, also those that Commit has merged.
func (d *Disk) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return closeAll(append(slices.Clone(d.layers), d.merged...))
}

// Commit merges all layers above the one of that number, counted from the base at 0,
// into it. That layer must be open for writing; it gets the size of the top. Progress
// is told to done in bytes, if it is not nil.
//
// The base is changed in rounds: data, refcounts and new tables are on stable storage
// before anything leads there. A crash, an error, or the end of ctx leaves the whole
// chain reading as before, and the same commit can be done again. After Commit has
// returned nil the disk reads the same with the merged layers left out.
//
// What is around that is up to the caller: that nobody else has the images open; that
// no other image builds on a layer that is merged, or on the base below them, for it
// would read other data from then on; that the merged files are removed, after what
// built on the top was told to build on the base (Target.SetBacking); and that once
// the base was written to, a commit that had ended is not done again. virt-rotate has
// locks and a journal for these.
//
// A *RefusedError has changed nothing: the layer is not open for writing, cannot be
// changed without loss, or one above it is corrupt, or has bitmaps that it cannot take.
func (d *Disk) Commit(ctx context.Context, into int, done func(n int64)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, err := d.merge(into)
	if err != nil {
		return err
	}
	f.done = done
	if err := f.begin(ctx, d.stack.Size()); err != nil {
		return err
	}
	if err := f.run(ctx); err != nil {
		return err
	}
	d.merged = append(d.merged, d.layers[into+1:]...)
	d.layers = d.layers[:into+1]
	d.stack, err = NewStack(d.layers...)
	return err
}

// merge is what Commit has to do, if it is allowed.
func (d *Disk) merge(into int) (*fill, error) {
	if into < 0 || into >= len(d.layers)-1 {
		return nil, fmt.Errorf("commit into layer %d of %d: there is nothing above it", into, len(d.layers))
	}
	base, above := d.layers[into], d.layers[into+1:]
	to, ok := base.(Target)
	if !ok || vfs.IsReadOnly(hostOf(base)) {
		return nil, refused(pathOf(base), "it is not open for writing")
	}
	for _, l := range above {
		if l.Image().Corrupt {
			return nil, refused(pathOf(l), "it is marked as corrupt: check and repair it first")
		}
	}
	from, err := NewStack(above...)
	if err != nil {
		return nil, err
	}
	f := &fill{to: to, from: from, except: NoLayer, view: d.stack, merged: above}
	if into > 0 {
		f.below = d.layers[into-1].Image().VirtualSize
	}
	if err := f.canKeepBitmaps(d.stack.Size()); err != nil {
		return nil, err
	}
	return f, errors.Join(writable(to), f.checkResize(Node{Path: pathOf(above[len(above)-1]), Image: above[len(above)-1].Image()}))
}

// Extents goes through what one image has, without what is below it: each Extent
// begins where the one before ended, and may be of the same kind. After an error there
// is no more.
func Extents(l Source) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		for off, size := int64(0), l.Image().VirtualSize; off < size; {
			x, err := l.Extent(off, size)
			if !yield(x, err) || err != nil {
				return
			}
			off = x.End()
		}
	}
}
