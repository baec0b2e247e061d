package chain

import (
	"bytes"
	"errors"
	"io"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

const (
	compareWindow  = 8 << 20   // how much is compared at once, in bytes
	compareWorkers = 4         // that read host files side by side
	compareBlock   = 256 << 10 // what each of them reads at once, in bytes: little enough for the processor's cache
)

// A difference tells, granule by granule, where two disks differ.
type difference struct {
	was, next *Stack
	granule   int64
	// shared, if not nil, tells what needs no look: the disks have the very same there.
	shared  func(off, end int64) (yes bool, n int64, err error)
	from    int64  // what is known begins here
	differs []bool // what is known: by granule
	a, b    []byte
	blocks  [compareWorkers][2][]byte
}

// at tells whether the next disk differs from x at x.Offset, and for how many
// bytes that holds. Where both have the same bytes of the same file, nothing is read.
func (d *difference) at(x Found) (differs bool, n int64, err error) {
	if d.shared != nil {
		yes, n, err := d.shared(x.Offset, x.End())
		if yes || err != nil {
			return false, n, err
		}
		x.Extent = x.Cut(x.Offset + n)
	}
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
	whole := n &^ (d.granule - 1)
	if whole == 0 || x.Offset&(d.granule-1) != 0 {
		return d.part(x.Offset, min(n, d.granule))
	}
	if !d.knows(x.Offset) {
		x.Length = min(whole, max(compareWindow, d.granule))
		if err := d.learn(x, y); err != nil {
			return false, 0, err
		}
	}
	i := int((x.Offset - d.from) / d.granule)
	differs = d.differs[i]
	k := i + 1
	for k < len(d.differs) && d.differs[k] == differs {
		k++
	}
	return differs, min(int64(k-i)*d.granule, whole), nil
}

func (d *difference) knows(off int64) bool {
	return off >= d.from && off < d.from+int64(len(d.differs))*d.granule
}

// part compares less than a granule.
func (d *difference) part(off, n int64) (bool, int64, error) {
	a, b, err := d.both(off, n)
	return !bytes.Equal(a, b), n, err
}

// both reads the same place of the two disks.
func (d *difference) both(off, n int64) (a, b []byte, err error) {
	if int64(len(d.a)) < n {
		d.a, d.b = make([]byte, n), make([]byte, n)
	}
	return d.a[:n], d.b[:n], readBoth(d.was, d.a[:n], d.next, d.b[:n], off)
}

// learn compares all granules of x.
func (d *difference) learn(x, y Found) error {
	d.from, d.differs = x.Offset, slices.Grow(d.differs[:0], int(x.Length/d.granule))[:x.Length/d.granule]
	clear(d.differs)
	if x.Kind == Data && y.Kind == Data {
		err := d.hosts(x, y)
		if !errors.Is(err, io.EOF) { // a host file may end within its last cluster
			return d.unless(err)
		}
	}
	step := max(compareBlock, d.granule)
	for at := int64(0); at < x.Length; at += step {
		n := min(step, x.Length-at)
		a, b, err := d.both(x.Offset+at, n)
		if err != nil {
			return d.unless(err)
		}
		d.note(at, a, b)
	}
	return nil
}

// unless forgets what is known if there is an error.
func (d *difference) unless(err error) error {
	if err != nil {
		d.differs = d.differs[:0]
	}
	return err
}

// note compares what both have from byte at of the window on.
func (d *difference) note(at int64, a, b []byte) {
	for len(a) > 0 {
		n := min(d.granule-at%d.granule, int64(len(a)))
		if !bytes.Equal(a[:n], b[:n]) {
			d.differs[at/d.granule] = true
		}
		a, b, at = a[n:], b[n:], at+n
	}
}

// hosts compares data where it lies, side by side: other than a Source, a host
// file may be read by several at once.
func (d *difference) hosts(x, y Found) error {
	f, g := hostOf(d.was.layers[x.Layer]), hostOf(d.next.layers[y.Layer])
	share := (x.Length/compareWorkers + d.granule - 1) &^ (d.granule - 1)
	share = max(share, 4*compareBlock&^(d.granule-1), d.granule)
	var all errgroup.Group
	for w := int64(0); w*share < x.Length; w++ {
		all.Go(func() error {
			return d.share(f, x.Host, g, y.Host, w*share, min((w+1)*share, x.Length), &d.blocks[w])
		})
	}
	return all.Wait()
}

// share compares [from, to) of the window, whose bytes are in f and g.
func (d *difference) share(f vfs.File, atF int64, g vfs.File, atG, from, to int64, block *[2][]byte) error {
	if block[0] == nil {
		block[0], block[1] = make([]byte, compareBlock), make([]byte, compareBlock)
	}
	for at := from; at < to; at += compareBlock {
		n := min(compareBlock, to-at)
		a, b := block[0][:n], block[1][:n]
		if err := readHost(f, a, atF+at); err != nil {
			return err
		}
		if err := readHost(g, b, atG+at); err != nil {
			return err
		}
		d.note(at, a, b)
	}
	return nil
}

// readHost fills p; io.EOF says that the file ends before.
func readHost(f vfs.File, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil {
		err = io.EOF
	}
	return err
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
