package chain

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// A Rebase is the plan of a rebase: Image keeps what the guest sees, and builds
// on the chain New instead of Old.
type Rebase struct {
	Old, New     []Node // lowest first, without Image; New is empty for none
	Image        Node
	Name, Format string // as the header will have them
	Amount
}

// PlanRebase plans to let the image at path build on the image that name means,
// as its header will have it.
func (s *Store) PlanRebase(ctx context.Context, path, format, name, nameFormat string) (*Rebase, error) {
	chain, err := s.Chain(path, format)
	if err != nil {
		return nil, err
	}
	top := len(chain) - 1
	r := &Rebase{Old: chain[:top], Image: chain[top], Name: name, Format: nameFormat}
	if err := errors.Join(relinkable(r.Image), s.lockable(r.Image)); err != nil {
		return nil, err
	}
	if name != "" {
		if r.New, err = s.newChain(r.Image, name, nameFormat); err != nil {
			return nil, err
		}
	}
	return r, s.measureRebase(ctx, r)
}

// relinkable refuses to change what internal snapshots build on: only the
// current state of the disk would get what it needs from the old backing file.
func relinkable(n Node) error {
	if k := n.Image.Snapshots; k > 0 {
		return refused(n.Path, "it has %d internal snapshots, which read through to its backing file", k)
	}
	return nil
}

// newChain follows a backing name that the user has given: its directory is
// allowed, too.
func (s *Store) newChain(n Node, name, format string) ([]Node, error) {
	path, ok := PlainPath(n.Path, name)
	if !ok {
		return nil, refused(n.Path, "the new backing file %q is not a plain path", name)
	}
	chain, err := s.Chain(path, format)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(chain, func(c Node) bool { return c.Info.ID == n.Info.ID }) {
		return nil, refused(n.Path, "%s builds on it: the chain would be a loop", path)
	}
	return chain, nil
}

// all lists every image once.
func (r *Rebase) all() []Node {
	nodes := append(slices.Clone(r.Old), r.Image)
	for _, n := range r.New {
		if !slices.ContainsFunc(nodes, func(o Node) bool { return o.Info.ID == n.Info.ID }) {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

func (s *Store) measureRebase(ctx context.Context, r *Rebase) error {
	o, err := s.openAll(r.all(), func(Node) access { return toRead })
	if err != nil {
		return err
	}
	f, err := r.fill(o, nil)
	if err == nil {
		err = errors.Join(f.canKeepBitmaps(r.Image.Image.VirtualSize), writable(f.to), ctx.Err())
	}
	return errors.Join(err, o.Close())
}

func (r *Rebase) fill(o *opened, done func(int64)) (*fill, error) {
	to, err := o.target(r.Image)
	if err != nil {
		return nil, err
	}
	from, err := NewStack(o.of(append(slices.Clone(r.Old), r.Image)...)...)
	if err != nil {
		return nil, err
	}
	view, err := NewStack(o.of(append(slices.Clone(r.Old), r.Image)...)...)
	if err != nil {
		return nil, err
	}
	next, err := NewStack(o.of(r.New...)...)
	if err != nil {
		return nil, err
	}
	f := &fill{to: to, from: from, except: len(r.Old), view: view, below: next.Size(), done: done, holes: true}
	f.wanted = (&difference{was: view, next: next, granule: to.Granule()}).at
	return f, nil
}

// Rebase carries out a plan. A crash or cancelling leaves the image as the guest
// sees it; the same rebase goes on.
func (s *Store) Rebase(ctx context.Context, r *Rebase, done func(n int64)) error {
	o, err := s.openAll(r.all(), writing(r.Image))
	if err != nil {
		return err
	}
	return errors.Join(s.rebase(ctx, r, o, done), o.Close())
}

func (s *Store) rebase(ctx context.Context, r *Rebase, o *opened, done func(int64)) error {
	f, err := r.fill(o, done)
	if err != nil {
		return err
	}
	to := r.link()
	if err := checkBacking(f.to, r.Image, to); err != nil {
		return err
	}
	if err := f.keepBitmaps(ctx); err != nil {
		return err
	}
	if err := f.to.Prepare(); err != nil {
		return fmt.Errorf("%s: %w", r.Image.Path, err)
	}
	if err := f.run(ctx); err != nil {
		return err
	}
	return setLink(f.to, r.Image, to)
}

// link is what the header is to say: the format of what is really there.
func (r *Rebase) link() link {
	if n := len(r.New); n > 0 {
		return linkTo(r.Name, r.New[n-1])
	}
	return link{name: r.Name, format: r.Format}
}

// Relink only writes another backing name into the header: what the guest sees
// changes unless both chains hold the same. The file need not be there, but for an
// image that notes its identity.
func (s *Store) Relink(path, format, name, nameFormat string) error {
	n, err := s.Node(path, format)
	if err != nil {
		return err
	}
	if name != "" && nameFormat == "" {
		return refused(n.Path, "say the format of the new backing file: -F FORMAT")
	}
	o, err := s.openAll([]Node{n}, func(Node) access { return toWrite })
	if err != nil {
		return err
	}
	t, err := o.target(n)
	if err == nil {
		err = s.relinkTo(t, n, link{name: name, format: nameFormat})
	}
	return errors.Join(err, o.Close())
}

// relinkTo looks at what the name means only if the image notes more than that.
func (s *Store) relinkTo(t Target, n Node, to link) error {
	if _, ok := t.(identifier); ok && to.name != "" {
		path, plain := PlainPath(n.Path, to.name)
		if !plain {
			return refused(n.Path, "the new backing file %q is not a plain path", to.name)
		}
		below, err := s.Node(path, to.format)
		if err != nil {
			return fmt.Errorf("new backing file of %s, whose identity it has to note: %w", n.Path, err)
		}
		to = linkTo(to.name, below)
	}
	if err := checkBacking(t, n, to); err != nil {
		return err
	}
	return setLink(t, n, to)
}
