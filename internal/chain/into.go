package chain

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// NobodyBuildsOn refuses a file that is to get another content, or to go, if an image
// builds on it: in its directory and below it, or in the directories of scan. Whatever it
// is, overlays may take it for an image of any format.
func (s *Store) NobodyBuildsOn(n Node, scan []string) error {
	as := []Node{n}
	for i := range s.Formats {
		other := n
		other.Image.Format = s.Formats[i].Name
		as = append(as, other)
	}
	users, err := s.users(as, nil, dirsOf([]Node{n}, scan))
	if err != nil {
		return err
	}
	for _, u := range users {
		return refused(u.Path, "it builds on %s, and would read something else then", n.Path)
	}
	return nil
}

// NotMerged refuses a file of which a journal notes how it was after a merge.
func (s *Store) NotMerged(n Node) error { return s.notMerged(n) }

// Into is an image that is there, and is to get what another disk has.
type Into struct {
	Below []Node // what it builds on, lowest first
	Image Node
	Scan  []string // directories of images that may build on it
	Clear bool     // it reads as zeros already
}

// Fits refuses a disk that is larger than the image.
func (to *Into) Fits(size int64) error {
	if have := to.Image.Image.VirtualSize; have < size {
		return refused(to.Image.Path, "it has %d bytes, and the disk that is to go there %d", have, size)
	}
	return nil
}

// ConvertInto copies the disk that nodes, base first, form over what the image has. What the
// image has behind the end of that disk stays. Cancelled, or after an error, it has a part.
func (s *Store) ConvertInto(ctx context.Context, nodes []Node, to *Into, c ConvertOptions, done func(n int64)) error {
	o, err := s.openInto(nodes, to)
	if err != nil {
		return err
	}
	return errors.Join(s.convertInto(ctx, nodes, to, o, c, done), o.Close())
}

// openInto sees that nobody has to do with the image, and opens all.
func (s *Store) openInto(nodes []Node, to *Into) (*opened, error) {
	if err := errors.Join(Changeable(to.Image), s.lockable(to.Image), s.notMerged(to.Image)); err != nil {
		return nil, err
	}
	all := append(slices.Clone(nodes), to.Below...)
	if slices.ContainsFunc(all, func(n Node) bool { return n.Info.ID == to.Image.Info.ID }) {
		return nil, refused(to.Image.Path, "it is an image that is read: it cannot be written to")
	}
	slices.SortFunc(all, func(a, b Node) int { return cmpID(a.Info.ID, b.Info.ID) })
	all = slices.CompactFunc(all, func(a, b Node) bool { return a.Info.ID == b.Info.ID })
	o, err := s.openAll(append(all, to.Image), writing(to.Image))
	if err != nil {
		return nil, err
	}
	if err := s.NobodyBuildsOn(to.Image, to.Scan); err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
}

func (s *Store) convertInto(ctx context.Context, nodes []Node, to *Into, o *opened, c ConvertOptions, done func(int64)) error {
	target, err := o.target(to.Image)
	if err != nil {
		return err
	}
	f, err := newConvert(o.of(nodes...), target, c)
	if err != nil {
		return err
	}
	if err := to.Fits(f.from.Size()); err != nil {
		return err
	}
	f.over(to)
	err = f.fresh(ctx, done)
	if err == nil {
		err = f.edge(o.of(append(slices.Clone(to.Below), to.Image)...))
	}
	if err != nil {
		return fmt.Errorf("%w; it has a part of what it was to get", err)
	}
	return nil
}

// end is where the disk ends, or before that the last granule that the target has more of.
func (f *fill) end() int64 {
	size := f.from.Size()
	if size < f.to.Image().VirtualSize {
		size &^= f.to.Granule() - 1
	}
	return size
}

// edge brings the rest of the disk into a granule whose end stays.
func (f *fill) edge(was []Source) error {
	off, size := f.end(), f.from.Size()
	if off == size {
		return nil
	}
	old, err := NewStack(was...)
	if err != nil {
		return err
	}
	b := make([]byte, min(f.to.Granule(), f.to.Image().VirtualSize-off))
	if _, err := old.ReadAt(b, off); err != nil {
		return err
	}
	if _, err := f.view.ReadAt(b[:size-off], off); err != nil {
		return err
	}
	placed, err := f.place([]Piece{{Offset: off, Length: int64(len(b))}})
	if err != nil {
		return err
	}
	for _, p := range placed {
		if _, err := f.to.Host().WriteAt(b[p.Offset-off:][:p.Length], p.Host); err != nil {
			return err
		}
	}
	return f.to.Flush()
}

// over lets a copy replace what the target has, zeros included, up to the end of the disk.
func (f *fill) over(to *Into) {
	f.holes = !to.Clear
	if n := len(to.Below); n > 0 {
		f.below = to.Below[n-1].Image.VirtualSize
	}
	unlike := f.wanted
	end := f.end()
	f.wanted = func(x Found) (bool, int64, error) {
		if x.Offset >= end {
			return false, x.Length, nil
		}
		return true, min(x.Length, end-x.Offset), nil
	}
	if unlike != nil { // zeros are not left out, but become holes
		f.zeroed = func(x *Found) error {
			want, n, err := unlike(*x)
			if x.Length = n; err == nil && !want {
				x.Kind, x.Host = Zero, NoHost
			}
			return err
		}
	}
}
