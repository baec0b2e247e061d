package qcow2

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
)

const crashDisk = "/disk"

// hazards are the clusters that a writer could overwrite although somebody else
// needs them, and the misplaced entries.
func hazards(t *testing.T, image []byte) map[string]bool {
	t.Helper()
	m := newCheckMem(image)
	c, err := examine(m)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{fmt.Sprint("misplaced ", c.res.misplaced): c.res.misplaced > 0}
	cmp := comparison{
		r: m, h: c.h, l: c.l, size: c.size, counts: c.counts,
		unreadable: func(first, end int64, _ string) error {
			for i := first; i < end; i++ {
				found[fmt.Sprint(i)] = c.counts.at(i) != 0
			}
			return nil
		},
		differ: func(i int64, refcount uint64, n clusterCount) error {
			found[fmt.Sprint(i)] = verifyCount(i, refcount, n) != nil
			return nil
		},
	}
	if err := cmp.run(); err != nil {
		t.Fatal(err)
	}
	return found
}

// onCrashDisk is a file system that holds only an image, durably.
func onCrashDisk(t *testing.T, image []byte) *vfstest.Mem {
	t.Helper()
	mem := vfstest.New()
	if err := mem.WriteFile(crashDisk, image, 0o600); err != nil {
		t.Fatal(err)
	}
	return mem
}

func repairOn(t *testing.T, mem *vfstest.Mem) CheckResult {
	t.Helper()
	f, err := mem.Open(crashDisk, true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	res, err := Check(f, RepairAll)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func contentOf(t *testing.T, mem *vfstest.Mem) []byte {
	t.Helper()
	f, err := mem.Open(crashDisk, false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, info.Size)
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return b
}

// crashable are damages that need all steps of a repair.
func crashable(t *testing.T) map[string][]byte {
	t.Helper()
	steps := append(append([]string{}, everyday...), withSnapshots...)
	dir := t.TempDir()
	sound := raise(t, dir, species{name: "disk", cluster: 512, size: 300, steps: steps}).load(t)
	p := explore(t, sound)
	change := func(to func(b []byte)) []byte {
		b := append([]byte{}, sound...)
		b[offIncompatible+7] |= incompatDirty
		b[offAutoclear] = 0x80 // a feature that nobody knows
		to(b)
		return b
	}
	refcounts := func(b []byte) {
		rng := rand.New(rand.NewPCG(1, 2))
		for i := range p.size / 512 {
			if rng.IntN(3) == 0 {
				putRef(b[p.blocks[0]:], 4, i, rng.Uint64N(4))
			}
		}
	}
	forgotten := func(b []byte) { put32(b, offSnapshots, 0) } // leaks and flags that are missing
	lazy := species{name: "lazy", cluster: 512, size: 300, options: "lazy_refcounts=on", steps: dirty}
	return map[string][]byte{
		"refcounts": change(refcounts),
		"no block":  change(func(b []byte) { put64(b, int(p.h.RefcountTableOffset), 0) }),
		"bad block": change(func(b []byte) {
			refcounts(b)
			put64(b, int(p.h.RefcountTableOffset), uint64(p.h.L1TableOffset))
		}),
		"leaks": change(forgotten),
		"leaks and a bad block elsewhere": change(func(b []byte) {
			forgotten(b)
			put64(b, int(p.h.RefcountTableOffset)+8*20, 1)
		}),
		"dirty": raise(t, dir, lazy).load(t),
	}
}

// TestCrashWithinRepair: at each crash point the guest sees the same, nothing is
// in danger that was not before, the dirty bit stands for as long as it is
// needed, unknown features are gone once anything has changed, and another
// repair comes to the end.
func TestCrashWithinRepair(t *testing.T) {
	for name, image := range crashable(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before, guest := hazards(t, image), mapping(t, image)
			done := repairOn(t, onCrashDisk(t, image))
			if done.Corruptions+done.Leaks+done.CheckErrors > 0 {
				t.Fatalf("not repaired: %s", done.describe())
			}
			for n := 1; ; n++ {
				mem := onCrashDisk(t, image)
				var after [][]byte
				mem.Before(n, func() {
					for seed := range uint64(12) {
						after = append(after, contentOf(t, mem.Crash(seed)))
					}
				})
				repairOn(t, mem)
				if after == nil {
					if n < 5 {
						t.Fatalf("%d crash points: hook broken?", n-1)
					}
					return
				}
				for seed, b := range after {
					wantNoWorse(t, fmt.Sprintf("change %d, seed %d", n, seed), image, b, before, guest)
				}
			}
		})
	}
}

func wantNoWorse(t *testing.T, where string, image, b []byte, before map[string]bool, guest string) {
	t.Helper()
	now := hazards(t, b)
	for cluster, bad := range now {
		if bad && !before[cluster] {
			t.Errorf("%s: cluster %s is in danger", where, cluster)
		}
		if bad && b[offIncompatible+7]&incompatDirty < image[offIncompatible+7]&incompatDirty {
			t.Errorf("%s: cluster %s is in danger, and the image is not dirty", where, cluster)
		}
	}
	if mapping(t, b) != guest {
		t.Errorf("%s: the guest sees something else", where)
	}
	sameBits := append([]byte{}, b...)
	copy(sameBits[offAutoclear:offAutoclear+8], image[offAutoclear:])
	if b[offAutoclear] != 0 && string(sameBits) != string(image) {
		t.Errorf("%s: changed with an unknown autoclear bit", where)
	}
	again := onCrashDisk(t, b)
	if res := repairOn(t, again); res.Corruptions+res.Leaks+res.CheckErrors > 0 {
		t.Errorf("%s: second repair: %s", where, res.describe())
	}
	if h := mustRead(t, contentOf(t, again)); h.Dirty() || h.Corrupt() {
		t.Errorf("%s: still dirty", where)
	}
}
