package chain

import (
	"context"
	"errors"
	"slices"
)

// A Pull is the plan of a pull: Image gets what it needs from the layers
// Between, and builds on Base then.
type Pull struct {
	Below   []Node // what Image will build on, lowest first; the last is the new base
	Between []Node
	Image   Node
	Amount
}

// PlanPull plans to make the image at path independent of all layers above base;
// no base means of all layers.
func (s *Store) PlanPull(ctx context.Context, path, format, base string) (*Pull, error) {
	chain, err := s.Chain(path, format)
	if err != nil {
		return nil, err
	}
	top := len(chain) - 1
	at := -1
	if base != "" {
		if at, err = s.indexOf(chain, base); err != nil {
			return nil, err
		}
	}
	if at == top {
		return nil, refused(chain[top].Path, "it cannot be pulled out of itself")
	}
	p := &Pull{Below: chain[:at+1], Between: chain[at+1 : top], Image: chain[top]}
	if err := errors.Join(relinkable(p.Image), s.lockable(p.Image)); err != nil {
		return nil, err
	}
	return p, s.measurePull(ctx, p)
}

func (p *Pull) all() []Node {
	return append(append(slices.Clone(p.Below), p.Between...), p.Image)
}

func (s *Store) measurePull(ctx context.Context, p *Pull) error {
	o, err := s.openAll(p.all(), func(Node) access { return toRead })
	if err != nil {
		return err
	}
	f, err := p.fill(o, nil)
	if err == nil && len(p.Between) > 0 {
		err = errors.Join(f.canKeepBitmaps(p.Image.Image.VirtualSize), writable(f.to))
	}
	if err == nil {
		p.Amount, err = f.measure(ctx)
	}
	return errors.Join(err, o.Close())
}

func (p *Pull) fill(o *opened, done func(int64)) (*fill, error) {
	to, err := o.target(p.Image)
	if err != nil {
		return nil, err
	}
	from, err := NewStack(o.of(append(slices.Clone(p.Between), p.Image)...)...)
	if err != nil {
		return nil, err
	}
	view, err := NewStack(o.of(p.all()...)...)
	if err != nil {
		return nil, err
	}
	if err := from.LookForHoles(len(p.Between)); err != nil { // the image itself changes
		return nil, err
	}
	f := &fill{to: to, from: from, except: len(p.Between), view: view, done: done, merged: o.of(p.Between...)}
	if n := len(p.Below); n > 0 {
		f.below = p.Below[n-1].Image.VirtualSize // what will show through holes
	}
	return f, nil
}

// Pull carries out a plan. A crash or cancelling leaves the image as the guest
// sees it; the same pull goes on.
func (s *Store) Pull(ctx context.Context, p *Pull, done func(n int64)) error {
	return s.PullAnd(ctx, p, done, func() error { return nil })
}

// PullAnd is Pull with something that is to be done once the image builds on its new
// base, and while all of the images are still locked.
func (s *Store) PullAnd(ctx context.Context, p *Pull, done func(n int64), then func() error) error {
	o, err := s.openAll(p.all(), writing(p.Image))
	if err != nil {
		return err
	}
	err = s.pull(ctx, p, o, done)
	if err == nil {
		err = then()
	}
	return errors.Join(err, o.Close())
}

func (s *Store) pull(ctx context.Context, p *Pull, o *opened, done func(int64)) error {
	f, err := p.fill(o, done)
	if err != nil {
		return err
	}
	var to link
	if n := len(p.Below); n > 0 {
		to = linkTo(BackingName(p.Image, p.Below[n-1].Path), p.Below[n-1])
	}
	if err := checkBacking(f.to, p.Image, to); err != nil {
		return err
	}
	if len(p.Between) > 0 {
		if err := s.fillNoted(ctx, f, p.Image, p.Image.Image.VirtualSize); err != nil {
			return err
		}
	}
	return setLink(f.to, p.Image, to)
}
