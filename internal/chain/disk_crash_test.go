package chain_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
	"github.com/virt-rotate/virt-rotate/qcow2"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// five is a file with the methods of vfs.Plain and no other: the engine has to do with
// them, and to be as safe.
type five struct{ f vfs.File }

func (p five) ReadAt(b []byte, off int64) (int, error)  { return p.f.ReadAt(b, off) }
func (p five) WriteAt(b []byte, off int64) (int, error) { return p.f.WriteAt(b, off) }
func (p five) Size() (int64, error)                     { return p.f.Size() }
func (p five) Truncate(size int64) error                { return p.f.Truncate(size) }
func (p five) Sync() error                              { return p.f.Sync() }

func imagePath(i int) string { return fmt.Sprintf("/images/image%d", i) }

// onto puts the images on a disk that loses power.
func (s *shelf) onto(mem *vfstest.Mem) {
	s.t.Helper()
	for i, f := range s.files {
		s.must(mem.WriteFile(imagePath(i), f.b, 0o600))
	}
}

// diskOn opens the chain there; layer write is opened for writing.
func (s *shelf) diskOn(mem *vfstest.Mem, write int) *chain.Disk {
	s.t.Helper()
	open := func(i int) (chain.Source, error) {
		f, err := mem.Open(imagePath(i), i == write)
		if err != nil {
			return nil, err
		}
		size, err := f.Size()
		if err != nil {
			return nil, err
		}
		switch format := s.format[i]; {
		case format == "qcow2" && i == write:
			return qcow2.Open(five{f}, nil)
		case format == "qcow2":
			return qcow2.NewReader(io.NewSectionReader(f, 0, size), size, nil)
		case format == "vhd" && i == write:
			return vhd.Open(five{f})
		case format == "vhd":
			return vhd.NewReader(io.NewSectionReader(f, 0, size), size)
		case i == write:
			return chain.OpenRaw(five{f})
		}
		return qcow2.NewRawReader(io.NewSectionReader(f, 0, size), size)
	}
	next := len(s.format) - 1
	top, err := open(next)
	s.must(err)
	d, err := chain.OpenDisk(top, func(string, string) (chain.Source, error) { next--; return open(next) })
	s.must(err)
	return d
}

// A commit through small files keeps the promise of all: at every crash point the guest
// reads the same bytes, the commit can be done again, and a check finds no corruption.
func TestACommitOnPlainFilesSurvivesLostPower(t *testing.T) {
	const minChanges = 8
	for k, formats := range [][]string{{"qcow2", "qcow2", "qcow2"}, {"vhd", "vhd", "vhd"}, {"vhd", "qcow2", "qcow2"}} {
		for n := 1; ; n++ { // lose power before the n-th change
			s := newShelf(t, uint64(60+k), formats...)
			mem := vfstest.New()
			s.onto(mem)
			d := s.diskOn(mem, 0)
			var after []*vfstest.Mem
			mem.Before(n, func() {
				for seed := range uint64(4) { // which unsynced sectors survive
					after = append(after, mem.Crash(seed))
				}
			})
			s.must(d.Commit(context.Background(), 0, nil))
			if after == nil { // n is past the last change
				if n < minChanges {
					t.Errorf("%v: %d crash points: hook broken?", formats, n-1)
				}
				s.durable(mem, fmt.Sprint(formats))
				break
			}
			for seed, mem := range after {
				s.recovers(mem, fmt.Sprintf("%v, change %d, seed %d", formats, n, seed))
			}
		}
	}
}

// durable sees that the base alone has it all, though power is lost right after a commit.
func (s *shelf) durable(mem *vfstest.Mem, what string) {
	s.t.Helper()
	for seed := range uint64(8) {
		crashed := mem.Crash(seed)
		s.recovers(crashed, what+", after its end")
		alone := *s
		alone.format = s.format[:1]
		alone.same(alone.diskOn(mem.Crash(seed), -1), fmt.Sprintf("%s, the base alone, seed %d", what, seed))
	}
}

// recovers sees that the chain reads as it is to, and that the commit can be done again.
func (s *shelf) recovers(mem *vfstest.Mem, what string) {
	s.t.Helper()
	s.same(s.diskOn(mem, -1), what)
	d := s.diskOn(mem, 0)
	if err := d.Commit(context.Background(), 0, nil); err != nil {
		s.t.Fatal(what, err)
	}
	s.same(d, what+", done again")
	f, err := mem.Open(imagePath(0), false)
	s.must(err)
	var bad int64
	if s.format[0] == "qcow2" {
		var r qcow2.CheckResult
		r, err = qcow2.Check(f, qcow2.RepairNone)
		bad = r.Corruptions + r.CheckErrors
	} else {
		var r vhd.CheckResult
		r, err = vhd.Check(f, vhd.RepairNone)
		bad = r.Damage
	}
	if err = errors.Join(err, f.Close()); err != nil || bad != 0 {
		s.t.Fatalf("%s: %d corruptions, %v", what, bad, err)
	}
}
