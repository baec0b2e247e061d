package chaintest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
)

// A forest is a few images in a simulated file system with what the guest must
// read in each.
type forest struct {
	bench
	mem   *vfstest.Mem
	kit   map[string]Kit
	views map[string][]byte // path → what the guest reads
	below map[string]string // path → backing path
	lost  map[string]int64  // path → clusters that were lost in it from the start
}

// notes is where a store notes what it fills.
const notes = "/state"

func path(name string) string { return filepath.Join(dir, name) }

// grow makes an image on another one, or a base.
func (f *forest) grow(k Kit, name, on string, r *rand.Rand, size int64) {
	f.t.Helper()
	var parent Parent
	if on != "" {
		n, err := f.store().Node(path(on), f.kit[path(on)].Format.Name)
		f.must(err)
		parent = Parent{on, n.Image.Format, n.Image.ID}
		f.below[path(name)] = path(on)
	}
	f.create(k, path(name), size, parent)
	l := randomLayer(r, size, f.granule(k, path(name)))
	f.put(k, path(name), l)
	f.kit[path(name)] = k
	f.views[path(name)] = l.over(f.views[f.below[path(name)]])
	f.mark(k, path(name))
}

// mark gives an image its bitmap.
func (f *forest) mark(k Kit, path string) {
	f.t.Helper()
	if k.Mark == nil {
		return
	}
	file, err := f.fs.Open(path, true)
	f.must(err)
	f.must(k.Mark(file))
}

// marked wants in the bitmaps of images that get another content all that reads otherwise
// than when they were made.
func (f *forest) marked(op Operation) error {
	for name := range op.Becomes {
		p := path(name)
		k := f.kit[p]
		if k.Dirty == nil || !f.there(name) {
			continue
		}
		now, err := f.read(name)
		if err != nil {
			return err
		}
		file, err := f.fs.Open(p, false)
		if err != nil {
			return err
		}
		dirty, err := k.Dirty(file)
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		was := make([]byte, max(len(now), len(f.views[p]))) // a backup of a disk that gets longer gets zeros
		copy(was, f.views[p])
		for off := 0; off < len(now); off += 512 {
			if !bytes.Equal(now[off:off+512], was[off:off+512]) && !dirty(int64(off)) {
				return fmt.Errorf("%s: byte %d has changed, and the bitmap does not say so", p, off)
			}
		}
	}
	return nil
}

// An Operation is something done to a chain base ← a ← b ← c, with d beside c.
type Operation struct {
	Name string
	// Do carries it out; run again after a crash it must finish.
	Do func(ctx context.Context, s *chain.Store) error
	// Stay are the images whose content may not change.
	Stay []string
	// Gone are those that are deleted in the end.
	Gone []string
	// Becomes says which image has another's content in the end.
	Becomes map[string]string
	// Alone leaves c and d out: b is the active layer.
	Alone bool
	// Noted lets the store note what it fills: once the operation is done nothing is lost in any image
	// that was not before.
	Noted bool
}

func commit(top, base string) func(context.Context, *chain.Store) error {
	return func(ctx context.Context, s *chain.Store) error {
		if _, err := s.Recover(ctx, []string{dir}, nil); err != nil {
			return err
		}
		if _, err := s.FS.Stat(path(top)); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		m, err := s.PlanCommit(ctx, chain.CommitRequest{Top: path(top), Base: path(base)})
		if err != nil {
			return err
		}
		return s.Commit(ctx, m, nil)
	}
}

func pull(image, base string) func(context.Context, *chain.Store) error {
	return func(ctx context.Context, s *chain.Store) error {
		if base != "" {
			base = path(filepath.Base(base))
		}
		p, err := s.PlanPull(ctx, path(image), "", base)
		if err != nil {
			return err
		}
		return s.Pull(ctx, p, nil)
	}
}

func rebase(image, on, format string) func(context.Context, *chain.Store) error {
	return func(ctx context.Context, s *chain.Store) error {
		r, err := s.PlanRebase(ctx, path(image), "", on, format)
		if err != nil {
			return err
		}
		return s.Rebase(ctx, r, nil)
	}
}

// Operations are what every format has to survive.
func Operations(baseFormat string) []Operation {
	return []Operation{
		{Name: "commit of the middle", Do: commit("b", "base"), Stay: []string{"c", "d"}, Gone: []string{"a", "b"}, Becomes: map[string]string{"base": "b"}},
		{Name: "commit of one layer", Do: commit("b", "a"), Stay: []string{"base", "c", "d"}, Gone: []string{"b"}, Becomes: map[string]string{"a": "b"}},
		{Name: "commit of the active layer", Do: commit("b", "base"), Gone: []string{"a", "b"}, Becomes: map[string]string{"base": "b"}, Alone: true},
		{Name: "pull to the base", Do: pull("b", "base"), Stay: []string{"base", "a", "b", "c", "d"}},
		{Name: "pull of everything", Do: pull("c", ""), Stay: []string{"base", "a", "b", "c", "d"}},
		{Name: "rebase", Do: rebase("c", "base", baseFormat), Stay: []string{"base", "a", "b", "c", "d"}},
	}
}

// newForest builds the chain for op; sizes grow and shrink with the seed. The file system
// of every other one shares extents.
func newForest(t testing.TB, base, above Kit, op Operation, seed uint64) *forest {
	mem := vfstest.New()
	mem.Reflink = seed%2 == 1
	f := &forest{bench: bench{t: t, fs: mem, kits: []Kit{base, above}}, mem: mem, lost: map[string]int64{},
		kit: map[string]Kit{}, views: map[string][]byte{}, below: map[string]string{}}
	r := rand.New(rand.NewPCG(seed, 1))
	one := 512 * (40 + r.Int64N(80))
	size := func() int64 {
		if base.OneSize || above.OneSize {
			return one
		}
		return 512 * (40 + r.Int64N(80))
	}
	f.grow(base, "base", "", r, size())
	f.grow(above, "a", "base", r, size())
	f.grow(above, "b", "a", r, size())
	if !op.Alone {
		f.grow(above, "c", "b", r, size())
		f.grow(above, "d", "b", r, size())
	}
	if op.Noted {
		f.fills = notes
	}
	return f
}

// on is the forest as it is on another file system.
func (f *forest) on(mem *vfstest.Mem) *forest {
	g := *f
	g.mem, g.fs = mem, mem
	return &g
}

// read reads an image through its chain, as its headers say.
func (f *forest) read(name string) ([]byte, error) {
	s := f.store()
	nodes, err := s.Chain(path(name), f.kit[path(name)].Format.Name)
	if err != nil {
		return nil, err
	}
	var layers []chain.Source
	for _, n := range nodes {
		file, err := f.fs.Open(n.Path, false)
		if err != nil {
			return nil, err
		}
		src, err := f.kit[n.Path].Format.Open(file, nil)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", n.Path, err)
		}
		defer src.Close()
		layers = append(layers, src)
	}
	stack, err := chain.NewStack(layers...)
	if err != nil {
		return nil, err
	}
	view := make([]byte, stack.Size())
	_, err = stack.ReadAt(view, 0)
	return view, err
}

// wrong says what is wrong with an image that must read as want, or "".
func (f *forest) wrong(name string, want []byte) string {
	have, err := f.read(name)
	if err != nil {
		return err.Error()
	}
	if !bytes.Equal(have, want) {
		at := 0
		for at < min(len(have), len(want)) && have[at] == want[at] {
			at++
		}
		return fmt.Sprintf("%s: %d bytes, want %d; differs at %d", name, len(have), len(want), at)
	}
	return ""
}

// sound checks every image that is there.
func (f *forest) sound() error {
	names, err := f.fs.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		k, ok := f.kit[path(name)]
		if !ok {
			continue
		}
		file, err := f.fs.Open(path(name), false)
		if err != nil {
			return err
		}
		err = errors.Join(k.Check(file), file.Close())
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// during checks what must hold at any moment of op: what stays reads as ever.
func (f *forest) during(op Operation) error {
	for _, name := range op.Stay {
		if why := f.wrong(name, f.views[path(name)]); why != "" {
			return errors.New(why)
		}
	}
	if op.Alone && !f.there(op.Gone[len(op.Gone)-1]) || len(op.Stay) == 0 && !op.Alone {
		for name, as := range op.Becomes {
			if why := f.wrong(name, f.views[path(as)]); why != "" {
				return errors.New(why)
			}
		}
	} else if op.Alone {
		if why := f.wrong(op.Gone[len(op.Gone)-1], f.views[path(op.Gone[len(op.Gone)-1])]); why != "" {
			return errors.New(why)
		}
	}
	return errors.Join(f.sound(), f.marked(op))
}

func (f *forest) there(name string) bool {
	_, err := f.fs.Stat(path(name))
	return err == nil
}

// after checks what must hold once op is over.
func (f *forest) after(op Operation) error {
	if err := f.during(op); err != nil {
		return err
	}
	for name, as := range op.Becomes {
		if why := f.wrong(name, f.views[path(as)]); why != "" {
			return errors.New(why)
		}
	}
	for _, name := range op.Gone {
		if f.there(name) {
			return fmt.Errorf("%s is still there", name)
		}
	}
	return errors.Join(f.nothingLeft(), f.nothingLost())
}

// nothingLost wants no clusters lost that were not from the start, and no note left.
func (f *forest) nothingLost() error {
	if f.fills == "" {
		return nil
	}
	for p, k := range f.kit {
		if k.Lost == nil || !f.there(filepath.Base(p)) {
			continue
		}
		file, err := f.fs.Open(p, false)
		if err != nil {
			return err
		}
		n, err := k.Lost(file)
		if err = errors.Join(err, file.Close()); err != nil {
			return err
		}
		if n != f.lost[p] {
			return fmt.Errorf("%s: %d clusters are lost, %d were before", p, n, f.lost[p])
		}
	}
	left, err := f.fs.ReadDir(f.fills)
	left = slices.DeleteFunc(left, isTemp)
	if err == nil && len(left) > 0 {
		return fmt.Errorf("notes of what is being filled are left: %q", left)
	}
	return nil
}

// nothingLeft wants no file but images.
func (f *forest) nothingLeft() error {
	names, err := f.fs.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		// A temporary file of a journal that was being written may stay: it holds nothing.
		if _, ok := f.kit[path(name)]; !ok && !isTemp(name) {
			return fmt.Errorf("%s is left over", name)
		}
	}
	return nil
}

func isTemp(name string) bool {
	ok, _ := filepath.Match(vfs.TempPattern, name)
	return ok || strings.HasSuffix(name, ".tmp")
}

// PowerLoss loses power before every change of op, with several fates of what
// was not synced, looks, lets op finish, loses power in that as well, and looks
// again. It returns how many states it has seen and the first that was wrong.
// Spoil, if any, breaks the file system before op starts.
func PowerLoss(t testing.TB, base, above Kit, op Operation, seed uint64, fates uint64, spoil func(*vfstest.Mem)) (states int, err error) {
	origin := newForest(t, base, above, op, seed)
	origin.settle()
	for n := 1; ; n++ {
		f := origin.on(origin.mem.Crash(1)) // a copy in which all survives
		if spoil != nil {
			spoil(f.mem)
		}
		var after []*vfstest.Mem
		f.mem.Before(f.mem.Changes()+n, func() {
			for fate := range fates {
				after = append(after, f.mem.Crash(fate))
			}
		})
		if err := op.Do(context.Background(), f.store()); err != nil {
			return states, fmt.Errorf("seed %d: %w", seed, err)
		}
		if after == nil {
			return states, f.after(op)
		}
		for fate, mem := range after {
			states++
			if err := f.on(mem).recovers(op, &states, uint64(n)+uint64(fate)); err != nil {
				return states, fmt.Errorf("seed %d, power lost before change %d, fate %d: %w\n%s", seed, n, fate, err, strings.Join(tail(f.mem.Log()), "\n"))
			}
		}
	}
}

func tail(log []string) []string { return log[max(0, len(log)-60):] }

// settle makes everything durable.
func (f *forest) settle() {
	f.t.Helper()
	if err := f.during(Operation{Stay: slices.Collect(names(f.views))}); err != nil {
		f.t.Fatalf("before anything is done: %v", err)
	}
}

func names(views map[string][]byte) func(func(string) bool) {
	return func(yield func(string) bool) {
		for p := range views {
			if !yield(filepath.Base(p)) {
				return
			}
		}
	}
}

// recovers looks at a state after a crash and lets op go on, once with another
// crash in the middle.
func (f *forest) recovers(op Operation, states *int, salt uint64) error {
	if err := f.during(op); err != nil {
		return err
	}
	f.mem = f.mem.Crash(1)
	again := f.on(f.mem.Crash(1))
	var second *vfstest.Mem
	again.mem.Before(again.mem.Changes()+1+int(salt%23), func() { second = again.mem.Crash(2 + salt%7) })
	if err := op.Do(context.Background(), again.store()); err != nil {
		return fmt.Errorf("going on: %w", err)
	}
	if err := again.after(op); err != nil {
		return fmt.Errorf("after it went on: %w", err)
	}
	if second == nil {
		return nil
	}
	*states++
	third := f.on(second)
	if err := third.during(op); err != nil {
		return fmt.Errorf("power lost while it went on: %w", err)
	}
	if err := op.Do(context.Background(), third.store()); err != nil {
		return fmt.Errorf("going on twice: %w", err)
	}
	return third.after(op)
}
