package chain_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/qcow2"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// plain is a file that anybody could write. It fails from change number fail on, if
// that is not 0.
type plain struct {
	b       []byte
	changes int
	fail    int
	closed  int
}

var errPlain = errors.New("the file fails")

func (p *plain) change() error {
	p.changes++
	if p.fail > 0 && p.changes >= p.fail {
		return errPlain
	}
	return nil
}

func (p *plain) ReadAt(b []byte, off int64) (int, error) { return bytes.NewReader(p.b).ReadAt(b, off) }

func (p *plain) WriteAt(b []byte, off int64) (int, error) {
	if err := p.change(); err != nil {
		return 0, err
	}
	if end := off + int64(len(b)); end > int64(len(p.b)) {
		p.b = append(p.b, make([]byte, end-int64(len(p.b)))...)
	}
	return copy(p.b[off:], b), nil
}

func (p *plain) Size() (int64, error) { return int64(len(p.b)), nil }

func (p *plain) Truncate(size int64) error {
	if err := p.change(); err != nil {
		return err
	}
	p.b = append(p.b, make([]byte, max(0, size-int64(len(p.b))))...)[:size]
	return nil
}

func (p *plain) Sync() error { return p.change() }

func (p *plain) Close() error { p.closed++; return nil }

// A shelf has images by name, each on the one before.
type shelf struct {
	t      *testing.T
	files  []*plain
	format []string
	want   []byte // what the guest sees
}

func (s *shelf) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// newShelf makes a chain of images of those formats, base first, with random writes. Each
// is larger than the one below, or smaller with every other seed.
func newShelf(t *testing.T, seed uint64, formats ...string) *shelf {
	t.Helper()
	s := &shelf{t: t, format: formats}
	rng := rand.New(rand.NewPCG(seed, 0))
	for i, format := range formats {
		size := int64(1<<20 + i*4096)
		if seed%2 == 1 {
			size = int64(1<<20 - i*4096)
		}
		f := &plain{}
		s.files = append(s.files, f)
		s.create(f, i, format, size)
		s.want = append(s.want, make([]byte, max(0, size-int64(len(s.want))))...)[:size]
		for range 6 {
			s.write(s.open(i, true).(chain.Target), rng)
		}
	}
	return s
}

func (s *shelf) create(f *plain, i int, format string, size int64) {
	s.t.Helper()
	below, belowFormat := "", ""
	if i > 0 {
		below, belowFormat = fmt.Sprint("image", i-1), s.format[i-1]
	}
	switch format {
	case "qcow2":
		s.must(qcow2.Create(f, qcow2.CreateOptions{Size: size, ClusterSize: 4096, Backing: below, BackingFormat: belowFormat}))
	case "vhd":
		o := vhd.CreateOptions{Size: size, BlockSize: 64 << 10, UUID: vhd.UUID{byte(i + 1)}, Backing: below, BackingFormat: belowFormat}
		if belowFormat == "vhd" {
			o.ParentID = vhd.UUID{byte(i)}.String()
		}
		s.must(vhd.Create(f, o))
	case "raw":
		s.must(f.Truncate(size))
	}
}

// open opens image i.
func (s *shelf) open(i int, write bool) chain.Source {
	s.t.Helper()
	src, err := openPlain(s.files[i], s.format[i], write)
	s.must(err)
	return src
}

func openPlain(f *plain, format string, write bool) (chain.Source, error) {
	switch {
	case format == "qcow2" && write:
		return qcow2.Open(f, nil)
	case format == "qcow2":
		return qcow2.NewReader(f, int64(len(f.b)), nil)
	case format == "vhd" && write:
		return vhd.Open(f)
	case format == "vhd":
		return vhd.NewReader(f, int64(len(f.b)))
	case write:
		return chain.OpenRaw(f)
	}
	return qcow2.NewRawReader(f, int64(len(f.b)))
}

// write puts something or zeros somewhere.
func (s *shelf) write(to chain.Target, rng *rand.Rand) {
	s.t.Helper()
	g, size := max(to.Granule(), 4096), to.Image().VirtualSize
	off := rng.Int64N(size/g) * g
	n := min(g*(1+rng.Int64N(8)), size-off)
	s.must(to.Prepare())
	if rng.IntN(4) == 0 {
		s.must(to.Zero(off, n))
		clear(s.want[off:][:n])
	} else {
		b := bytes.Repeat([]byte{byte(1 + rng.IntN(255))}, int(n))
		placed, err := to.Place([]chain.Piece{{Offset: off, Length: n}})
		s.must(err)
		for _, p := range placed {
			_, err := to.Host().WriteAt(b[:p.Length], p.Host)
			s.must(err)
		}
		copy(s.want[off:], b)
	}
	s.must(to.Flush())
}

// disk opens the chain; layer write is opened for writing.
func (s *shelf) disk(write int) *chain.Disk {
	s.t.Helper()
	top := len(s.files) - 1
	d, err := chain.OpenDisk(s.open(top, write == top), func(name, format string) (chain.Source, error) {
		var i int
		if _, err := fmt.Sscanf(strings.TrimPrefix(name, "./"), "image%d", &i); err != nil {
			return nil, err
		}
		if format != s.format[i] {
			return nil, fmt.Errorf("format %q", format)
		}
		return openPlain(s.files[i], format, write == i)
	})
	s.must(err)
	return d
}

// same compares what the guest sees.
func (s *shelf) same(d *chain.Disk, what string) {
	s.t.Helper()
	got := make([]byte, d.Size())
	if _, err := d.ReadAt(got, 0); err != nil {
		s.t.Fatal(what, err)
	}
	if !bytes.Equal(got, s.want) {
		s.t.Fatalf("%s: the guest sees other bytes", what)
	}
}

func chains() [][]string {
	return [][]string{{"qcow2", "qcow2", "qcow2"}, {"raw", "qcow2", "qcow2"}, {"vhd", "vhd", "vhd"}, {"raw", "vhd", "vhd"}, {"vhd", "qcow2"}}
}

func TestADiskReadsAsItsChain(t *testing.T) {
	for n, formats := range chains() {
		s := newShelf(t, uint64(n), formats...)
		d := s.disk(-1)
		var all sync.WaitGroup
		for seed := range uint64(3) { // as io.ReaderAt allows it
			all.Go(func() { readAnywhere(t, d, s.want, seed) })
		}
		all.Wait()
		next := int64(0)
		for f, err := range d.Extents() {
			if err != nil || f.Offset != next || f.Length <= 0 || f.Layer >= len(formats) {
				t.Fatalf("%v: extent %+v at %d: %v", formats, f, next, err)
			}
			next = f.End()
		}
		if next != d.Size() {
			t.Errorf("%v: extents end at %d of %d", formats, next, d.Size())
		}
		s.must(d.Close())
		for i, f := range s.files {
			if f.closed != 1 {
				t.Errorf("%v: image %d was closed %d times", formats, i, f.closed)
			}
		}
	}
}

// readAnywhere reads stretches that keep to no boundary.
func readAnywhere(t *testing.T, d *chain.Disk, want []byte, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	for range 200 {
		off := rng.Int64N(int64(len(want)) + 10)
		b := make([]byte, rng.IntN(9000))
		n, err := d.ReadAt(b, off)
		end := min(off+int64(len(b)), int64(len(want)))
		short := off+int64(len(b)) > end || off >= int64(len(want))
		if short != errors.Is(err, io.EOF) || err != nil && !short || int64(n) != max(0, end-off) || n > 0 && !bytes.Equal(b[:n], want[off:end]) {
			t.Errorf("%d bytes at %d of %d: %d, %v", len(b), off, len(want), n, err)
			return
		}
	}
	if _, err := d.ReadAt(make([]byte, 1), -1); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a byte before the disk: %v", err)
	}
}

func TestACommitOnPlainFiles(t *testing.T) {
	for n, formats := range chains() {
		for into := range len(formats) - 1 {
			s := newShelf(t, uint64(10+n), formats...)
			d := s.disk(into)
			told := int64(0)
			s.must(d.Commit(context.Background(), into, func(n int64) { told += n }))
			s.same(d, fmt.Sprint(formats, " into ", into))
			s.must(d.Close())
			s.files = s.files[:into+1] // what was merged is not needed any more
			s.same(s.disk(-1), fmt.Sprint(formats, " alone, into ", into))
			if told == 0 {
				t.Errorf("%v: no progress", formats)
			}
			s.sound(into)
		}
	}
}

// sound checks an image with nothing but its bytes.
func (s *shelf) sound(i int) {
	s.t.Helper()
	f := s.files[i]
	var bad int64
	var err error
	switch s.format[i] {
	case "qcow2":
		var r qcow2.CheckResult
		r, err = qcow2.CheckReader(f, int64(len(f.b)))
		bad = r.Corruptions + r.CheckErrors
	case "vhd":
		var r vhd.CheckResult
		r, err = vhd.CheckReader(f, int64(len(f.b)))
		bad = r.Damage
	}
	if err != nil || bad != 0 {
		s.t.Errorf("%s: %d corruptions, %v", s.format[i], bad, err)
	}
}

// What is on stable storage when power is lost chaintest asks. Here a file fails, at
// each change that a commit makes, and the commit is done again.
func TestACommitThatFailsIsDoneAgain(t *testing.T) {
	for n, formats := range chains() {
		for fail := 1; ; fail++ {
			s := newShelf(t, uint64(20+n), formats...)
			s.files[0].changes, s.files[0].fail = 0, fail
			d := s.disk(0)
			err := d.Commit(context.Background(), 0, nil)
			s.files[0].fail = 0
			if err == nil {
				if fail < 4 {
					t.Errorf("%v: %d points of failure", formats, fail-1)
				}
				break
			}
			if !errors.Is(err, errPlain) {
				t.Fatal(formats, fail, err)
			}
			s.same(s.disk(-1), fmt.Sprint(formats, " after failure ", fail))
			again := s.disk(0)
			s.must(again.Commit(context.Background(), 0, nil))
			s.files = s.files[:1]
			s.same(s.disk(-1), fmt.Sprint(formats, " again after failure ", fail))
			s.sound(0)
		}
	}
}

func TestWhatADiskRefuses(t *testing.T) {
	s := newShelf(t, 30, "vhd", "vhd")
	var refused *chain.RefusedError
	if err := s.disk(1).Commit(context.Background(), 0, nil); !errors.As(err, &refused) {
		t.Errorf("a base that is only to be read: %v", err)
	}
	if err := s.disk(0).Commit(context.Background(), 1, nil); err == nil {
		t.Error("a commit into the top")
	}
	if _, err := chain.OpenDisk(s.open(1, false), nil); !errors.As(err, &refused) {
		t.Errorf("no opener: %v", err)
	}
	other := &plain{}
	s.must(vhd.Create(other, vhd.CreateOptions{Size: 1 << 20}))
	_, err := chain.OpenDisk(s.open(1, false), func(string, string) (chain.Source, error) { return vhd.NewReader(other, int64(len(other.b))) })
	if !errors.As(err, &refused) || other.closed != 1 {
		t.Errorf("a parent of another identity: %v; closed %d times", err, other.closed)
	}
	loop := &plain{}
	s.must(qcow2.Create(loop, qcow2.CreateOptions{Size: 1 << 20, Backing: "itself", BackingFormat: "qcow2"}))
	opened := 0
	_, err = chain.OpenDisk(s.qcow2(loop), func(string, string) (chain.Source, error) { opened++; return s.qcow2(loop), nil })
	if !errors.As(err, &refused) || opened != loop.closed || opened > 200 {
		t.Errorf("a loop: %v; opened %d, closed %d", err, opened, loop.closed)
	}
	_, err = chain.OpenDisk(s.qcow2(loop), func(string, string) (chain.Source, error) { return nil, errPlain })
	if !errors.Is(err, errPlain) {
		t.Errorf("a backing file that is not there: %v", err)
	}
}

func (s *shelf) qcow2(f *plain) chain.Source {
	s.t.Helper()
	m, err := qcow2.NewReader(f, int64(len(f.b)), nil)
	s.must(err)
	return m
}

// foreignSource is an image of somebody else's format: it can do no more than be read.
type foreignSource struct {
	image chain.Image
	b     []byte
}

func (s foreignSource) Image() chain.Image { return s.image }

func (s foreignSource) Extent(off, end int64) (chain.Extent, error) {
	return chain.Extent{Offset: off, Length: end - off, Kind: chain.Compressed, Host: chain.NoHost}, nil
}

func (s foreignSource) ReadAt(p []byte, off int64) (int, error) {
	return copy(p, s.b[off:]), nil
}

func (s foreignSource) Host() vfs.Plain { return nil }

func (s foreignSource) Close() error { return nil }

func TestASourceOfSomebodyElse(t *testing.T) {
	s := newShelf(t, 40, "qcow2")
	b := bytes.Repeat([]byte("foreign!"), 1<<17)
	top := foreignSource{chain.Image{Format: "foreign", VirtualSize: 1 << 20, Backing: "image0", BackingFormat: "qcow2"}, b}
	d, err := chain.OpenDisk(top, func(string, string) (chain.Source, error) { return qcow2.Open(s.files[0], nil) })
	s.must(err)
	s.want = b
	s.same(d, "a foreign top")
	s.must(d.Commit(context.Background(), 0, nil))
	s.same(s.disk(-1), "merged into ours")
}

// Whatever a caller says of the size, there is an error and no panic.
func TestSizesThatAreNotTrue(t *testing.T) {
	images := [][]byte{newShelf(t, 50, "qcow2").files[0].b, newShelf(t, 50, "vhd").files[0].b}
	for _, size := range []int64{math.MinInt64, -1, 0, 1, 511, 512, 4096, math.MaxInt64 - 511, math.MaxInt64} {
		for i, open := range []func(r io.ReaderAt) error{
			func(r io.ReaderAt) error { _, err := qcow2.NewReader(r, size, nil); return err },
			func(r io.ReaderAt) error { _, err := vhd.NewReader(r, size); return err },
			func(r io.ReaderAt) error { _, err := qcow2.CheckReader(r, size); return err },
			func(r io.ReaderAt) error { _, err := vhd.CheckReader(r, size); return err },
		} {
			err := open(bytes.NewReader(images[i%2]))
			if size < 4096 && err == nil {
				t.Errorf("opener %d: a size of %d is taken", i, size)
			}
		}
		if raw, err := vhd.NewRawReader(bytes.NewReader(nil), size); err == nil {
			if _, err := raw.ReadAt(make([]byte, 1024), 0); size >= 1024 && err == nil {
				t.Errorf("raw: %d bytes that are not there are read", size)
			}
		}
	}
}
