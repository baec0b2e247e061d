package qcow2

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
)

// readStates are checksums of what the image has in each of its states, as this package
// reads it.
func readStates(t *testing.T, image []byte) map[string]string {
	t.Helper()
	m, err := open(newCheckMem(image), nil)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{"": readSum(t, m)}
	list, err := m.Snapshots()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		state, err := m.At(s)
		if err != nil {
			t.Fatal(err)
		}
		all[s.ID] = readSum(t, state)
	}
	return all
}

func readSum(t *testing.T, m *Image) string {
	t.Helper()
	b := make([]byte, m.h.Size)
	if _, err := m.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

func compactOn(t *testing.T, mem *vfstest.Mem) CompactResult {
	t.Helper()
	f, err := mem.Open(crashDisk, true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	res, err := Compact(t.Context(), f, CompactOptions{Zeros: true})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// wasteful are images with all that Compact gives back: zeros in one state and in
// several, room for zeros, compressed zeros, leaks, clusters counted too often, free
// clusters with data in them, and a tail.
func wasteful(t *testing.T) map[string][]byte {
	t.Helper()
	dir := t.TempDir()
	steps := slices.Concat(everyday, withSnapshots, packed)
	all := map[string][]byte{}
	for _, s := range []species{
		{name: "v3", cluster: 512, size: 300, steps: steps},
		{name: "v2", cluster: 512, size: 300, options: "compat=0.10", steps: steps},
		{name: "counted-too-often", cluster: 512, size: 300, steps: steps},
		{name: "4k", cluster: 4 << 10, size: 60, steps: steps},
		{name: "extended", cluster: 16 << 10, size: 40, options: "extended_l2=on", steps: steps},
	} {
		b := raise(t, dir, withZeros(s)).load(t)
		p := explore(t, b)
		b = append(b, make([]byte, 20*s.cluster)...)
		for i := p.size / s.cluster; i < int64(len(b))/s.cluster; i++ {
			if i%2 == 0 {
				putRef(b[p.blocks[0]:], 4, i, 1)
			}
			copy(b[i*s.cluster:], "what nobody needs")
		}
		if s.name == "counted-too-often" {
			countTooOften(t, b, p)
		}
		all[s.name] = b
	}
	return all
}

// countTooOften makes refcounts too high of clusters that only the active state has, as a
// program does that dies while it deletes a snapshot.
func countTooOften(t *testing.T, b []byte, p places) {
	t.Helper()
	var flagged []int64
	_, err := usage(newCheckMem(b), p.h, int64(len(b)), func(r *ref) error {
		if r.kind == refData && r.times == 1 && r.copied {
			putRef(b[p.blocks[0]:], p.h.RefcountOrder, r.offset>>p.h.ClusterBits, 2)
			flagged = append(flagged, r.at)
		}
		return nil
	})
	if err != nil || len(flagged) == 0 {
		t.Fatal(len(flagged), err)
	}
	for _, at := range flagged {
		b[at] &^= byte(entryCopied >> 56)
	}
}

// TestCrashWithinCompact: at each crash point every state reads the same, nothing but
// leaks is wrong, and another run comes to the end.
func TestCrashWithinCompact(t *testing.T) {
	for name, image := range wasteful(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := readStates(t, image)
			whole := onCrashDisk(t, image)
			if res := compactOn(t, whole); res.Zeros == 0 || res.Leaked == 0 || res.Tail == 0 || name != "v2" && res.Room == 0 {
				t.Fatalf("not all that there is: %+v", res)
			}
			size := len(contentOf(t, whole))
			for n := 1; ; n++ {
				mem := onCrashDisk(t, image)
				var after [][]byte
				mem.Before(n, func() {
					for seed := range uint64(12) {
						after = append(after, contentOf(t, mem.Crash(seed)))
					}
				})
				compactOn(t, mem)
				if after == nil {
					if n < 8 {
						t.Fatalf("%d crash points: hook broken?", n-1)
					}
					return
				}
				for seed, b := range after {
					wantCompactGoesOn(t, fmt.Sprintf("change %d, seed %d", n, seed), b, want, size, name == "counted-too-often")
				}
			}
		})
	}
}

// wantCompactGoesOn looks at an image after a crash. Flagless ones may lack copied flags
// that they lacked before: that does no harm.
func wantCompactGoesOn(t *testing.T, where string, b []byte, want map[string]string, size int, flagless bool) {
	t.Helper()
	if !maps.Equal(readStates(t, b), want) {
		t.Errorf("%s: a state reads as something else", where)
	}
	c, err := examine(newCheckMem(b))
	if err == nil {
		_, err = verify(c.f, c.h)
	}
	if err != nil || c.res.Corruptions+c.res.CheckErrors > 0 && !flagless {
		t.Errorf("%s: %s%v", where, c.res.describe(), err)
		return
	}
	again := onCrashDisk(t, b)
	compactOn(t, again)
	done := contentOf(t, again)
	if !maps.Equal(readStates(t, done), want) || len(done) > size {
		t.Errorf("%s: the second run: a state reads as something else, or %d bytes instead of %d", where, len(done), size)
	}
}

// TestFailuresWithinCompact: whatever fails, every state reads the same.
func TestFailuresWithinCompact(t *testing.T) {
	for name, image := range wasteful(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := readStates(t, image)
			for n := 1; ; n++ {
				mem := onCrashDisk(t, image)
				f, err := mem.Open(crashDisk, true)
				if err != nil {
					t.Fatal(err)
				}
				mem.FailAt(n, syscall.EIO, n%2 == 0)
				_, err = Compact(t.Context(), f, CompactOptions{Zeros: true})
				if b := contentOf(t, mem.Crash(uint64(n))); !maps.Equal(readStates(t, b), want) {
					t.Errorf("operation %d fails (%v): a state reads as something else", n, err)
				}
				if err == nil {
					return
				}
			}
		})
	}
}
