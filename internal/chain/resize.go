package chain

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// A Resizing is the plan of giving one image another size.
type Resizing struct {
	Below []Node // what the image builds on, lowest first
	Image Node
	Size  int64 // bytes that the guest is to see
	Room  Room  // for what is new
	scan  []string
}

// Shrinks tells whether the disk becomes smaller.
func (r *Resizing) Shrinks() bool { return r.Size < r.Image.Image.VirtualSize }

// A ResizeRequest says what size a disk is to have.
type ResizeRequest struct {
	Path, Format string
	Size         func(now int64) int64 // made of the one it has
	Room         Room
	Scan         []string // directories of images that may build on it
}

// PlanResize plans to give a disk another size.
func (s *Store) PlanResize(q ResizeRequest) (*Resizing, error) {
	nodes, err := s.Chain(q.Path, q.Format)
	if err != nil {
		return nil, err
	}
	top := nodes[len(nodes)-1]
	r := &Resizing{Below: nodes[:len(nodes)-1], Image: top, Size: q.Size(top.Image.VirtualSize), Room: q.Room, scan: q.Scan}
	if err := errors.Join(Changeable(top), s.lockable(top), s.notMerged(top)); err != nil {
		return nil, err
	}
	return r, s.tryResize(r)
}

// tryResize refuses beforehand what the format would.
func (s *Store) tryResize(r *Resizing) error {
	o, err := s.openAll(r.all(), func(Node) access { return toRead })
	if err != nil {
		return err
	}
	f, err := r.fill(o)
	if err == nil {
		err = f.canKeepBitmaps(r.Size)
	}
	if err == nil {
		err = errors.Join(writable(f.to), s.resizable(r, f.to))
	}
	return errors.Join(err, o.Close())
}

func (s *Store) resizable(r *Resizing, to Target) error {
	if c, ok := to.(resizer); ok {
		if err := c.CheckResize(r.Size); err != nil {
			return fmt.Errorf("%s: %w", r.Image.Path, err)
		}
	}
	return s.nobodyReadsBeyond(r)
}

// nobodyReadsBeyond refuses to take from a disk what an image that builds on it may show.
func (s *Store) nobodyReadsBeyond(r *Resizing) error {
	if !r.Shrinks() {
		return nil
	}
	users, err := s.users([]Node{r.Image}, r.Below, dirsOf([]Node{r.Image}, r.scan))
	if err != nil {
		return err
	}
	for _, u := range users {
		if u.Image.VirtualSize > r.Size {
			return refused(u.Path, "it builds on %s, and shows what lies beyond the new end", r.Image.Path)
		}
	}
	return nil
}

func (r *Resizing) all() []Node { return append(slices.Clone(r.Below), r.Image) }

// Resize carries out a plan. Below the new end, or the old one if that is nearer, the guest
// reads the same at every crash point; a crash leaves the old size or the new one. Once
// ctx ends, no more room is made: the disk has its size then.
func (s *Store) Resize(ctx context.Context, r *Resizing, done func(n int64)) error {
	o, err := s.openAll(r.all(), writing(r.Image))
	if err != nil {
		return err
	}
	return errors.Join(s.resize(ctx, r, o, done), o.Close())
}

func (s *Store) resize(ctx context.Context, r *Resizing, o *opened, done func(int64)) error {
	if err := s.nobodyReadsBeyond(r); err != nil { // once more: since the plan somebody may have come to build on it
		return err
	}
	f, err := r.fill(o)
	if err != nil {
		return err
	}
	if err := f.sized(ctx, r.Size); err != nil {
		return err
	}
	return MakeRoom(ctx, f.to, r.Room, r.Image.Image.VirtualSize, done)
}

// fill knows what is below the end of the disk: nothing of it may come to light.
func (r *Resizing) fill(o *opened) (*fill, error) {
	to, err := o.target(r.Image)
	if err != nil {
		return nil, err
	}
	f := &fill{to: to, except: NoLayer}
	if n := len(r.Below); n > 0 {
		f.below = r.Below[n-1].Image.VirtualSize
	}
	if f.from, err = NewStack(to); err != nil {
		return nil, err
	}
	f.view, err = NewStack(o.of(r.all()...)...)
	return f, err
}
