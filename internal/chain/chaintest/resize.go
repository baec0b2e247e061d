package chaintest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
)

// A Size is what a disk becomes: larger by so many sectors, or smaller, and what room is
// made for what is new.
type Size struct {
	Sectors int64
	Room    chain.Room
}

// of is the new size of a disk in bytes.
func (z Size) of(now int64) int64 { return max(512, now+512*z.Sectors) }

// ResizeLoss loses power before every change of a resize of the upper image of two, and
// lets another one finish. It returns how many states it has seen and the first that was
// wrong. Spoil, if any, breaks the file system before.
func ResizeLoss(t testing.TB, base, above Kit, z Size, seed uint64, fates uint64, spoil func(*vfstest.Mem)) (states int, err error) {
	origin := newForest(t, base, above, Operation{Alone: true}, seed)
	origin.settle()
	r := &resizing{size: z.of(int64(len(origin.views[path("b")]))), room: z.Room}
	r.old = origin.views[path("b")]
	for n := 1; ; n++ {
		f := origin.on(origin.mem.Crash(1))
		if spoil != nil {
			spoil(f.mem)
		}
		var after []*vfstest.Mem
		f.mem.Before(f.mem.Changes()+n, func() {
			for fate := range fates {
				after = append(after, f.mem.Crash(fate))
			}
		})
		if err := r.do(f); err != nil {
			return states, err
		}
		if after == nil {
			return states, r.done(f)
		}
		for fate, mem := range after {
			states++
			if err := r.recovers(f.on(mem)); err != nil {
				return states, fmt.Errorf("seed %d, power lost before change %d, fate %d: %w\n%s", seed, n, fate, err, strings.Join(tail(f.mem.Log()), "\n"))
			}
		}
	}
}

// A resizing is one of b.
type resizing struct {
	old  []byte // what the guest read
	size int64
	room chain.Room
}

func (r *resizing) do(f *forest) error {
	s := f.store()
	plan, err := s.PlanResize(chain.ResizeRequest{Path: path("b"), Size: func(int64) int64 { return r.size }, Room: r.room})
	if err != nil {
		return err
	}
	return s.Resize(context.Background(), plan, nil)
}

// want is what the guest reads from a disk of so many bytes.
func (r *resizing) want(size int64) []byte {
	b := make([]byte, size)
	copy(b, r.old)
	return b
}

// done wants the new size, and what is below as it was.
func (r *resizing) done(f *forest) error {
	for name, want := range map[string][]byte{"b": r.want(r.size), "a": f.views[path("a")], "base": f.views[path("base")]} {
		if why := f.wrong(name, want); why != "" {
			return errors.New(why)
		}
	}
	return f.sound()
}

// recovers looks at a state after a crash, and lets the same resize finish.
func (r *resizing) recovers(f *forest) error {
	have, err := f.read("b")
	if err != nil {
		return err
	}
	size, keeps := int64(len(have)), min(r.size, int64(len(r.old)))
	if size != r.size && size != int64(len(r.old)) {
		return fmt.Errorf("a disk of %d bytes", size)
	}
	if size > keeps && size == int64(len(r.old)) { // what is to go may be gone
		have, size = have[:keeps], keeps
	}
	if string(have) != string(r.want(size)) {
		return errors.New("the guest reads something else")
	}
	if err := f.sound(); err != nil {
		return err
	}
	f.mem = f.mem.Crash(1)
	if err := r.do(f); err != nil {
		return fmt.Errorf("going on: %w", err)
	}
	if size < r.size && r.size < int64(len(r.old)) {
		return f.sound()
	}
	return r.done(f)
}
