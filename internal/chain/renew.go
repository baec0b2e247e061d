package chain

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// A Renewal is an image that was made of a disk, and is to read as the disk reads now. All
// lists are base first.
type Renewal struct {
	Disk []Node
	// Layers are how many of the highest of Disk may be other than they were; what is below
	// them reads as Below does.
	Layers int
	Below  []Node // what the image builds on
	Image  Node
}

func (r *Renewal) all() []Node {
	var nodes []Node
	for _, n := range slices.Concat(r.Disk, r.Below) {
		if !containsID(nodes, n) {
			nodes = append(nodes, n)
		}
	}
	return append(nodes, r.Image)
}

// Renew writes into the image what it reads otherwise than the disk: of both, only what those
// layers, or the image itself, have is read. A crash, an error or the end of ctx leaves an
// image that is valid, with some of it; doing it again goes on.
func (s *Store) Renew(ctx context.Context, r *Renewal, done func(n int64)) error {
	if err := errors.Join(Changeable(r.Image), s.lockable(r.Image), s.notMerged(r.Image)); err != nil {
		return err
	}
	if slices.ContainsFunc(append(slices.Clone(r.Disk), r.Below...), func(n Node) bool { return n.Info.ID == r.Image.Info.ID }) {
		return refused(r.Image.Path, "it is an image that is read: it cannot be written to")
	}
	o, err := s.openAll(r.all(), writing(r.Image))
	if err != nil {
		return err
	}
	f, err := r.fill(o)
	if err == nil {
		err = f.fresh(ctx, done)
	}
	return errors.Join(err, o.Close())
}

func (r *Renewal) fill(o *opened) (*fill, error) {
	to, err := o.target(r.Image)
	if err != nil {
		return nil, err
	}
	disk := o.of(r.Disk...)
	stacks := make([]*Stack, 5)
	for i, layers := range [][]Source{disk, disk, o.of(append(slices.Clone(r.Below), r.Image)...), disk[len(disk)-r.Layers:], o.of(r.Image)} {
		if stacks[i], err = NewStack(layers...); err != nil {
			return nil, err
		}
	}
	from, view, was, above, own := stacks[0], stacks[1], stacks[2], stacks[3], stacks[4]
	if from.Size() != was.Size() {
		return nil, refused(r.Image.Path, "it has %d bytes, and the disk %d", was.Size(), from.Size())
	}
	if err := from.LookForHoles(from.Depth()); err != nil {
		return nil, err
	}
	below := int64(0)
	if n := len(r.Below); n > 0 {
		below = r.Below[n-1].Image.VirtualSize
	}
	c := &renewed{candidates{above: above, wasAbove: own, difference: &difference{was: view, next: was, granule: to.Granule()}}}
	z := &sparse{from: from, granule: max(to.Granule(), sparseGranule)}
	return &fill{to: to, from: from, except: NoLayer, view: view, below: below, holes: true, wanted: c.at, zeroed: z.mark}, nil
}

// renewed are the places that an image may lack: where it has nothing itself, and the disk has,
// nothing needs to be compared.
type renewed struct{ candidates }

// at is fill.wanted.
func (c *renewed) at(x Found) (want bool, n int64, err error) {
	a, err := c.above.Find(x.Offset, x.End())
	if err != nil {
		return false, 0, err
	}
	b, err := c.wasAbove.Find(x.Offset, a.End())
	if err != nil || b.Layer == NoLayer {
		return a.Layer != NoLayer, b.Length, err
	}
	x.Length = b.Length
	return c.difference.at(x)
}

// UsersOf lists the images that build on one of nodes: in their directories and below, or in
// those of scan. In doubt it is an error.
func (s *Store) UsersOf(nodes []Node, scan []string) ([]Node, error) {
	found, err := s.users(nodes, nil, dirsOf(nodes, scan))
	if err != nil {
		return nil, fmt.Errorf("who builds on the images: %w", err)
	}
	var users []Node
	for _, u := range found {
		users = append(users, u.Node)
	}
	return users, nil
}
