// Package chaintest is what every image format has to pass: one suite for raw,
// qcow2 and VHD, on a simulated file system that loses power, fails and fills up.
//
// The central property: at every crash point, after recovery, the guest reads
// the same bytes and a check finds no corruption.
package chaintest

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A Kit is one format, or one variant of it, as the suite uses it.
type Kit struct {
	Name   string
	Format chain.Format
	// Create writes an empty image into f. Formats without backing files get none.
	Create func(f vfs.File, size int64, on Parent) error
	// Check returns an error if the image is corrupt. Lost space is no error.
	Check func(f vfs.File) error
	// Lost, if not nil, is how much space of a sound image nothing refers to, in clusters.
	Lost func(f vfs.File) (int64, error)
	// OneSize tells that the size of an image cannot change.
	OneSize bool
	// Mark, if not nil, gives an image that holds data already a bitmap of what changes
	// from then on, and Dirty tells what of the disk that says.
	Mark  func(f vfs.File) error
	Dirty func(f vfs.File) (func(off int64) bool, error)
	// Base tells that images of this format can only be bases.
	Base bool
}

// A Parent is what an image is made on; without a name on nothing.
type Parent struct {
	Name, Format string
	ID           string // of the image itself, if its format has one
}

// Raw is the kit of raw disks.
func Raw() Kit {
	return Kit{
		Name: "raw", Base: true,
		Format: chain.Format{
			Name: "raw",
			Open: func(f vfs.File, _ chain.DataOpener) (chain.Source, error) { return chain.OpenRaw(f) },
			Inspect: func(f vfs.File) (chain.Image, error) {
				r, err := chain.OpenRaw(f)
				if err != nil {
					return chain.Image{}, err
				}
				return r.Image(), nil
			},
		},
		Create: func(f vfs.File, size int64, _ Parent) error { return errors.Join(f.Truncate(size), f.Sync()) },
		Check:  func(vfs.File) error { return nil },
	}
}

// dir is where the suite keeps its images.
const dir = "/images"

// A bench is a file system with kits.
type bench struct {
	t    testing.TB
	fs   vfs.FS
	kits []Kit
	// fills is where the store notes what it fills; "" for nowhere.
	fills string
}

func (b *bench) store() *chain.Store {
	s := &chain.Store{FS: b.fs, Fills: b.fills}
	for _, k := range b.kits {
		known := false
		for _, f := range s.Formats {
			known = known || f.Name == k.Format.Name
		}
		if !known {
			s.Formats = append(s.Formats, k.Format)
		}
	}
	return s
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// open opens an image without locks.
func (b *bench) open(k Kit, path string, write bool) chain.Source {
	b.t.Helper()
	f, err := b.fs.Open(path, write)
	b.must(err)
	s, err := k.Format.Open(f, nil)
	b.must(err)
	return s
}

// create makes an empty image.
func (b *bench) create(k Kit, path string, size int64, on Parent) {
	b.t.Helper()
	f, err := b.fs.Create(path, 0o600)
	b.must(err)
	b.must(k.Create(f, size, on))
	b.must(f.Close())
	b.must(b.fs.SyncDir(dir))
}

// granule is the unit in which the image is written.
func (b *bench) granule(k Kit, path string) int64 {
	b.t.Helper()
	to := b.open(k, path, true).(chain.Target)
	g := to.Granule()
	b.must(to.Close())
	return g
}

// put writes a layer's content into an image and makes it durable.
func (b *bench) put(k Kit, path string, l layer) {
	b.t.Helper()
	to := b.open(k, path, true).(chain.Target)
	b.must(to.Prepare())
	b.must(putLayer(to, l))
	b.must(to.Close())
}

// putLayer places what l has, in random order of data and zeros.
func putLayer(to chain.Target, l layer) error {
	for _, w := range l.writes {
		if w.data == nil {
			if err := to.Zero(w.off, w.n); err != nil {
				return err
			}
			continue
		}
		if err := putData(to, w); err != nil {
			return err
		}
	}
	return to.Flush()
}

func putData(to chain.Target, w write) error {
	placed, err := to.Place([]chain.Piece{{Offset: w.off, Length: w.n}})
	if err != nil {
		return err
	}
	for _, p := range placed {
		if _, err := to.Host().WriteAt(w.data[p.Offset-w.off:][:p.Length], p.Host); err != nil {
			return err
		}
	}
	return nil
}

// A write is one stretch of a layer: data, or zeros if there is none.
type write struct {
	off, n int64
	data   []byte
}

// A layer is what one image has of its own.
type layer struct {
	size   int64
	writes []write
}

// randomLayer has data, zeros and holes in stretches of granules of g bytes.
func randomLayer(r *rand.Rand, size, g int64) layer {
	l := layer{size: size}
	for off := int64(0); off < size; {
		n := min(size-off, g*(1+r.Int64N(4)))
		switch r.IntN(4) {
		case 0:
			l.writes = append(l.writes, write{off: off, n: n})
		case 1, 2:
			l.writes = append(l.writes, write{off, n, randomBytes(r, n)})
		}
		off += n
	}
	r.Shuffle(len(l.writes), func(i, k int) { l.writes[i], l.writes[k] = l.writes[k], l.writes[i] })
	return l
}

func randomBytes(r *rand.Rand, n int64) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(1 + r.IntN(255))
	}
	return b
}

// over returns what the guest reads through l above below.
func (l layer) over(below []byte) []byte {
	view := make([]byte, l.size)
	copy(view, below)
	for _, w := range l.writes {
		if w.data == nil {
			clear(view[w.off : w.off+w.n])
		} else {
			copy(view[w.off:], w.data)
		}
	}
	return view
}
