package chain

import (
	"context"
	"errors"
	"slices"
)

// An Increment is what a disk has that an earlier one has not, or has otherwise. All lists
// are base first.
type Increment struct {
	Base []Node // the earlier disk, on which the target builds
	Disk []Node // what the target is to read as
	// Was is a disk that reads as Base does, and may have layers in common with Disk: then
	// nothing is read but what the layers have that are not common. Without it all is compared.
	Was []Node
}

// Common is how many of the lowest layers Was and Disk have in common.
func (i *Increment) Common() int {
	n := 0
	for n < min(len(i.Was), len(i.Disk)) && i.Was[n].Info.ID == i.Disk[n].Info.ID {
		n++
	}
	return n
}

// all lists every image once.
func (i *Increment) all() []Node {
	var nodes []Node
	for _, n := range slices.Concat(i.Base, i.Disk, i.Was) {
		if !containsID(nodes, n) {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// Increment brings into a fresh Target, which builds on i.Base and is of the size of i.Disk,
// what it needs to read as that. It closes nothing.
func (s *Store) Increment(ctx context.Context, i *Increment, to Target, done func(n int64)) error {
	o, err := s.openAll(i.all(), func(Node) access { return toRead })
	if err != nil {
		return err
	}
	return errors.Join(i.carryOut(ctx, o, to, done), o.Close())
}

func (i *Increment) carryOut(ctx context.Context, o *opened, to Target, done func(int64)) error {
	f, err := i.fill(o, to)
	if err != nil {
		return err
	}
	return f.fresh(ctx, done)
}

// MeasureIncrement counts, in bytes, what the layers have that are not common: there is no
// more to write than that. Without common layers it is the data of the whole disk.
func (s *Store) MeasureIncrement(ctx context.Context, i *Increment) (n int64, err error) {
	o, err := s.openAll(i.all(), func(Node) access { return toRead })
	if err != nil {
		return 0, err
	}
	n, err = i.measure(ctx, o)
	return n, errors.Join(err, o.Close())
}

func (i *Increment) measure(ctx context.Context, o *opened) (n int64, err error) {
	disk, err := NewStack(o.of(i.Disk...)...)
	if err != nil {
		return 0, err
	}
	c, err := i.candidates(o)
	if err != nil {
		return 0, err
	}
	for off := int64(0); off < disk.Size(); {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		x, err := disk.Find(off, disk.Size())
		if err != nil {
			return 0, err
		}
		if x.Kind != Hole && x.Kind != Zero {
			same, k, err := c.same(x)
			if err != nil {
				return 0, err
			}
			if x.Length = k; !same {
				n += k
			}
		}
		off = x.End()
	}
	return n, nil
}

func (i *Increment) fill(o *opened, to Target) (*fill, error) {
	from, err := NewStack(o.of(i.Disk...)...)
	if err != nil {
		return nil, err
	}
	view, err := NewStack(o.of(i.Disk...)...)
	if err != nil {
		return nil, err
	}
	base, err := NewStack(o.of(i.Base...)...)
	if err != nil {
		return nil, err
	}
	c, err := i.candidates(o)
	if err != nil {
		return nil, err
	}
	c.difference = &difference{was: view, next: base, granule: to.Granule()}
	z := &sparse{from: from, granule: max(to.Granule(), sparseGranule)}
	return &fill{to: to, from: from, except: NoLayer, view: view, below: base.Size(), holes: true, wanted: c.at, zeroed: z.mark}, nil
}

// candidates are the places where two disks may differ, by the maps of their layers: where
// neither has anything above those that both have. There the bytes are compared.
type candidates struct {
	above, wasAbove *Stack // nil: there are no common layers
	difference      *difference
}

func (i *Increment) candidates(o *opened) (c *candidates, err error) {
	c = &candidates{}
	n := i.Common()
	if n == 0 {
		return c, nil
	}
	if c.above, err = NewStack(o.of(i.Disk[n:]...)...); err != nil {
		return nil, err
	}
	c.wasAbove, err = NewStack(o.of(i.Was[n:]...)...)
	return c, err
}

// at is fill.wanted.
func (c *candidates) at(x Found) (want bool, n int64, err error) {
	same, n, err := c.same(x)
	if err != nil || same {
		return false, n, err
	}
	x.Length = n
	return c.difference.at(x)
}

// same tells whether both disks have x from a layer that they have in common, and for how
// many bytes that holds.
func (c *candidates) same(x Found) (same bool, n int64, err error) {
	if c.above == nil {
		return false, x.Length, nil
	}
	a, err := c.above.Find(x.Offset, x.End())
	if err != nil {
		return false, 0, err
	}
	b, err := c.wasAbove.Find(x.Offset, a.End())
	return a.Layer == NoLayer && b.Layer == NoLayer, b.Length, err
}
