package chaintest

import (
	"bytes"
	"errors"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
)

// mergedNotDeleted is a chain whose active layer b has been merged into its base,
// all of it, when power was lost: b is still there.
func mergedNotDeleted(t *testing.T) *forest {
	t.Helper()
	k := kits()[0]
	op := Operations(k.Format.Name)[2]
	origin := newForest(t, k, k, op, 5)
	for n := 1; ; n++ {
		f := origin.on(origin.mem.Crash(1))
		var then *vfstest.Mem
		f.mem.Before(f.mem.Changes()+n, func() { then = f.mem.Crash(1) })
		f.must(op.Do(t.Context(), f.store()))
		if then == nil {
			t.Fatal("there is no such moment")
		}
		at := f.on(then)
		if at.there(".virt-rotate-commit-b.json") {
			return at
		}
	}
}

// scribble changes one byte of guest data in an image, as a guest would.
func (f *forest) scribble(name string) {
	f.t.Helper()
	to := f.open(f.kit[path(name)], path(name), true).(chain.Target)
	f.must(to.Prepare())
	g := to.Granule()
	f.must(putData(to, write{0, g, bytes.Repeat([]byte{0xEE}, int(g))}))
	f.must(errors.Join(to.Flush(), to.Close()))
}

func (f *forest) recover() error {
	_, err := f.store().Recover(f.t.(*testing.T).Context(), []string{dir}, nil)
	return err
}

func TestAMergedLayerThatIsInUseAgainIsNotDeleted(t *testing.T) {
	f := mergedNotDeleted(t)
	guest, err := f.fs.Open(path("b"), true)
	f.must(err)
	f.must(guest.Lock(vfs.LockWrite))
	var busy *vfs.BusyError
	if err := f.recover(); !errors.As(err, &busy) || !f.there("b") {
		t.Errorf("%v, there: %v", err, f.there("b"))
	}
	f.must(guest.Close())
	f.must(f.recover())
	if f.there("b") || f.wrong("base", f.views[path("b")]) != "" {
		t.Error(f.wrong("base", f.views[path("b")]))
	}
}

func TestAMergedLayerThatWasWrittenToIsMergedAgain(t *testing.T) {
	f := mergedNotDeleted(t)
	f.scribble("b")
	want, err := f.read("b")
	f.must(err)
	f.must(f.recover())
	if f.there("b") || f.wrong("base", want) != "" {
		t.Error(f.wrong("base", want))
	}
}

func TestABaseThatWasWrittenToIsNotMergedIntoAgain(t *testing.T) {
	f := mergedNotDeleted(t)
	f.scribble("base")
	want, err := f.read("base")
	f.must(err)
	f.must(f.recover())
	if f.there("b") || f.wrong("base", want) != "" {
		t.Error(f.wrong("base", want))
	}
}

func TestIfBothWereWrittenToAPersonHasToDecide(t *testing.T) {
	f := mergedNotDeleted(t)
	f.scribble("b")
	f.scribble("base")
	var refusal *chain.RefusedError
	if err := f.recover(); !errors.As(err, &refusal) || !f.there("b") {
		t.Errorf("%v", err)
	}
}

func TestAnOverlayMadeOnAMergedLayerKeepsIt(t *testing.T) {
	f := mergedNotDeleted(t)
	f.create(kits()[0], path("new"), 4096, Parent{Name: "a", Format: "qcow2"})
	var refusal *chain.RefusedError
	if err := f.recover(); !errors.As(err, &refusal) || !f.there("a") || !f.there("b") {
		t.Errorf("%v", err)
	}
}
