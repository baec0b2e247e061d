package chain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
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
	if err := relinkable(r.Image); err != nil {
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
		err = errors.Join(writable(f.to), ctx.Err())
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
	f.wanted = (&difference{view, next, to.Granule(), nil, nil}).at
	return f, nil
}

// A difference tells where two disks differ.
type difference struct {
	was, next *Stack
	granule   int64
	a, b      []byte
}

// compareChunk is how much is compared at once, in bytes.
const compareChunk = 1 << 20

// at tells whether the next disk differs from x anywhere in the stretch [x.Offset,
// x.Offset+n). Where both have the same bytes of the same file, nothing is read.
func (d *difference) at(x Found) (differs bool, n int64, err error) {
	y, err := d.next.Find(x.Offset, x.End())
	if err != nil {
		return false, 0, err
	}
	n = y.Length
	switch {
	case reads0(x) && reads0(y):
		return false, n, nil
	case x.Kind == Data && y.Kind == Data && x.Host == y.Host && d.was.layers[x.Layer] == d.next.layers[y.Layer]:
		return false, n, nil
	}
	if whole := n &^ (d.granule - 1); whole > 0 {
		n = min(whole, max(compareChunk, d.granule))
	}
	if d.a == nil {
		size := max(compareChunk, d.granule)
		d.a, d.b = make([]byte, size), make([]byte, size)
	}
	n = min(n, int64(len(d.a)))
	if err := readBoth(d.was, d.a[:n], d.next, d.b[:n], x.Offset); err != nil {
		return false, 0, err
	}
	return !bytes.Equal(d.a[:n], d.b[:n]), n, nil
}

// readBoth reads the same place of two disks, side by side if they have no layer
// in common: a Source is not safe for concurrent use.
func readBoth(x *Stack, a []byte, y *Stack, b []byte, off int64) error {
	if slices.ContainsFunc(x.layers, func(l Source) bool { return slices.Contains(y.layers, l) }) {
		_, err := x.ReadAt(a, off)
		if err == nil {
			_, err = y.ReadAt(b, off)
		}
		return err
	}
	var g errgroup.Group
	g.Go(func() error { _, err := y.ReadAt(b, off); return err })
	_, err := x.ReadAt(a, off)
	return errors.Join(err, g.Wait())
}

func reads0(f Found) bool { return f.Kind == Zero || f.Kind == Hole }

// Rebase carries out a plan. A crash or cancelling leaves the image as the guest
// sees it; the same rebase goes on.
func (s *Store) Rebase(ctx context.Context, r *Rebase, done func(n int64)) error {
	o, err := s.openAll(r.all(), func(n Node) access {
		if n.Info.ID == r.Image.Info.ID {
			return toWrite
		}
		return toRead
	})
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
	if err := checkBacking(f.to, r.Image, r.Name, formatOf(r.Format, r.New)); err != nil {
		return err
	}
	if err := f.to.Prepare(); err != nil {
		return fmt.Errorf("%s: %w", r.Image.Path, err)
	}
	if err := f.run(ctx); err != nil {
		return err
	}
	return s.setBacking(f.to, r.Image, r.Name, r.Format, r.New)
}

func (s *Store) setBacking(t Target, n Node, name, format string, chain []Node) error {
	if err := t.SetBacking(name, formatOf(format, chain)); err != nil {
		return fmt.Errorf("%s: %w", n.Path, err)
	}
	return nil
}

// formatOf is what the header is to say: the format of what is really there.
func formatOf(format string, chain []Node) string {
	if len(chain) > 0 {
		return chain[len(chain)-1].Image.Format
	}
	return format
}

// Relink only writes another backing name into the header: what the guest sees
// changes unless both chains hold the same. The file need not be there.
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
		err = s.setBacking(t, n, name, nameFormat, nil)
	}
	return errors.Join(err, o.Close())
}
