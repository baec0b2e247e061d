package qcow2

import (
	"fmt"
	"maps"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
)

// reclaimOn has what is lost in the image given back, and writes to it afterwards if then is set.
func reclaimOn(t *testing.T, mem *vfstest.Mem, then bool) {
	t.Helper()
	f, err := mem.Open(crashDisk, true)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Open(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Prepare(); err != nil {
		t.Fatal(err)
	}
	if err := m.Reclaim(); err != nil {
		t.Fatal(err)
	}
	if m.Leaked() != 0 {
		t.Errorf("%d are lost still", m.Leaked())
	}
	if free, err := newRefcounts(m); err != nil || free.last != m.w.refs.last || free.freeBelow() != m.w.refs.freeBelow() {
		t.Errorf("%d clusters are free for what is written next, not %d: %v", m.w.refs.freeBelow(), free.freeBelow(), err)
	}
	if !then {
		return
	}
	if _, err := m.Place([]chain.Piece{{Offset: 0, Length: 3 * m.cluster()}}); err != nil {
		t.Fatal(err)
	}
	if err := m.Flush(); err != nil {
		t.Fatal(err)
	}
}

// TestReclaimGivesBackAllThatIsLost: nothing is wrong afterwards, nor after a write, every state reads the
// same, and what nobody needs is in holes where clusters are no smaller than blocks.
func TestReclaimGivesBackAllThatIsLost(t *testing.T) {
	for name, image := range wasteful(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mem := onCrashDisk(t, image)
			before, err := mem.Stat(crashDisk)
			if err != nil {
				t.Fatal(err)
			}
			reclaimOn(t, mem, false)
			if !maps.Equal(readStates(t, contentOf(t, mem)), readStates(t, image)) {
				t.Error("a state reads as something else")
			}
			if after, err := mem.Stat(crashDisk); err != nil || name == "4k" && after.Allocated >= before.Allocated {
				t.Errorf("%d bytes are allocated of %d: %v", after.Allocated, before.Allocated, err)
			}
			wantFaultless(t, "reclaimed", contentOf(t, mem))
			reclaimOn(t, mem, true)
			wantFaultless(t, "written to", contentOf(t, mem))
			mem = onCrashDisk(t, image)
			reclaimOn(t, mem, true)
			wantFaultless(t, "written to at once", contentOf(t, mem))
		})
	}
}

func wantFaultless(t *testing.T, where string, b []byte) {
	t.Helper()
	if res, err := CheckReader(newCheckMem(b), int64(len(b))); err != nil || res.Corruptions+res.Leaks+res.CheckErrors > 0 {
		t.Errorf("%s: %s%v", where, res.describe(), err)
	}
}

// TestCrashWithinReclaim: at each crash point every state reads the same, and nothing but leaks is wrong.
func TestCrashWithinReclaim(t *testing.T) {
	for name, image := range wasteful(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := readStates(t, image)
			for n := 1; ; n++ {
				mem := onCrashDisk(t, image)
				var after [][]byte
				mem.Before(n, func() {
					for seed := range uint64(8) {
						after = append(after, contentOf(t, mem.Crash(seed)))
					}
				})
				reclaimOn(t, mem, true)
				if after == nil {
					if n < 4 {
						t.Fatalf("%d crash points: hook broken?", n-1)
					}
					return
				}
				for seed, b := range after {
					wantReclaimGoesOn(t, fmt.Sprintf("change %d, seed %d", n, seed), b, want, name == "counted-too-often")
				}
			}
		})
	}
}

// wantReclaimGoesOn looks at an image after a crash, before or within the write that
// follows, whose data is not looked at.
func wantReclaimGoesOn(t *testing.T, where string, b []byte, want map[string]string, flagless bool) {
	t.Helper()
	now := readStates(t, b)
	for id := range want {
		if id != "" && now[id] != want[id] {
			t.Errorf("%s: state %s reads as something else", where, id)
		}
	}
	if flagless { // flags that were missing before do no harm
		return
	}
	c, err := examine(newCheckMem(b))
	if err == nil {
		_, err = verify(c.f, c.h)
	}
	if err != nil || c.res.Corruptions+c.res.CheckErrors > 0 {
		t.Errorf("%s: %s%v", where, c.res.describe(), err)
		return
	}
	again := onCrashDisk(t, b)
	reclaimOn(t, again, false)
	wantFaultless(t, where+", done again", contentOf(t, again))
}
