package chaintest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
	"github.com/virt-rotate/virt-rotate/qcow2"
)

// qcow is the kit of one variant of qcow2.
func qcow(name string, o qcow2.CreateOptions) Kit {
	return Kit{
		Name: name,
		Format: chain.Format{
			Name:  "qcow2",
			Probe: qcow2.Probe,
			Open:  func(f vfs.File, data chain.DataOpener) (chain.Source, error) { return qcow2.Open(f, data) },
			Inspect: func(f vfs.File) (chain.Image, error) {
				m, err := qcow2.Open(f, nil)
				if err != nil {
					return chain.Image{}, err
				}
				return m.Image(), nil
			},
		},
		Create: func(f vfs.File, size int64, on Parent) error {
			o := o
			o.Size, o.Backing, o.BackingFormat = size, on.Name, chain.QEMUName(on.Format)
			return qcow2.Create(f, o)
		},
		Check: func(f vfs.File) error {
			r, err := qcow2.Check(f, qcow2.RepairNone)
			if err == nil && (r.Corruptions > 0 || r.CheckErrors > 0) {
				err = fmt.Errorf("%d corruptions, %d errors: %v", r.Corruptions, r.CheckErrors, r.Problems)
			}
			return err
		},
		Lost: func(f vfs.File) (int64, error) {
			r, err := qcow2.Check(f, qcow2.RepairNone)
			return r.Leaks, err
		},
	}
}

func kits() []Kit {
	return []Kit{
		qcow("4 KiB", qcow2.CreateOptions{ClusterSize: 4096}),
		qcow("512 B", qcow2.CreateOptions{ClusterSize: 512}),
		qcow("version 2", qcow2.CreateOptions{ClusterSize: 1024, Version: 2}),
		qcow("subclusters", qcow2.CreateOptions{ClusterSize: 16384, ExtendedL2: true}),
		qcow("1-bit refcounts", qcow2.CreateOptions{ClusterSize: 512, RefcountBits: 1}),
		qcow("64-bit refcounts", qcow2.CreateOptions{ClusterSize: 512, RefcountBits: 64}),
	}
}

// fewStates is how many are looked at where nobody asks for more.
const fewStates = 3000

// wantStates is how many crash states to look at, at least.
func wantStates(t *testing.T) int {
	if text := os.Getenv("VIRT_ROTATE_CRASH_STATES"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return fewStates
}

func TestPowerLossAtEveryWriteLosesNothing(t *testing.T) {
	t.Parallel()
	all, want := kits(), wantStates(t)
	states := 0
	for seed := uint64(1); states < want; seed++ {
		above := all[seed%uint64(len(all))]
		base := append([]Kit{Raw()}, all...)[seed/2%uint64(len(all)+1)]
		for _, op := range Operations(base.Format.Name) {
			n, err := PowerLoss(t, base, above, op, seed, 6, nil)
			states += n
			if err != nil {
				t.Fatalf("%s of %s on %s: %v", op.Name, above.Name, base.Name, err)
			}
		}
	}
	t.Logf("%d states", states)
}

// noted are commits and pulls of which the store notes what they fill.
func noted(baseFormat string) (ops []Operation) {
	for _, op := range Operations(baseFormat) {
		if strings.HasPrefix(op.Name, "commit") || strings.HasPrefix(op.Name, "pull") {
			op.Name, op.Noted = op.Name+", noted", true
			ops = append(ops, op)
		}
	}
	return ops
}

// Space that a merge had placed or given up when power was lost is there again once the merge is done.
func TestPowerLossLosesNoSpaceOfAMergeThatIsNoted(t *testing.T) {
	t.Parallel()
	all, want := append(kits(), bitmapped(kits()[0])), wantStates(t)/3
	states := 0
	for seed := uint64(1); states < want; seed++ {
		above := all[seed%uint64(len(all))]
		base := append([]Kit{Raw()}, all...)[seed/2%uint64(len(all)+1)]
		if above.Mark != nil || base.Mark != nil {
			above = all[len(all)-1]
			base = above
		}
		for _, op := range noted(base.Format.Name) {
			n, err := PowerLoss(t, base, above, op, seed, 2, nil)
			states += n
			if err != nil {
				t.Fatalf("%s of %s on %s: %v", op.Name, above.Name, base.Name, err)
			}
		}
	}
	t.Logf("%d states", states)
}

// bitmapped is a kit whose images have a bitmap of what changes.
func bitmapped(k Kit) Kit {
	k.Mark = func(f vfs.File) error {
		m, err := qcow2.Open(f, nil)
		if err != nil {
			return err
		}
		return errors.Join(m.EditBitmaps(func(e *qcow2.BitmapEdit) error { return e.Add("since", 512) }), m.Close())
	}
	k.Dirty = func(f vfs.File) (func(off int64) bool, error) {
		m, err := qcow2.Open(f, nil)
		if err != nil {
			return nil, err
		}
		defer m.Close()
		set := map[int64]bool{}
		err = m.EachDirty("since", func(off, n int64) {
			for at := off; at < off+n; at += 512 {
				set[at] = true
			}
		})
		return func(off int64) bool { return set[off] }, err
	}
	return k
}

// At any moment of an operation, and after a crash in it, a bitmap names at least what has changed
// in its image.
func TestPowerLossLeavesNoBitmapThatSaysTooLittle(t *testing.T) {
	t.Parallel()
	all, want := kits()[:2], wantStates(t)/3
	states := 0
	for seed := uint64(1); states < want; seed++ {
		k := bitmapped(all[seed%uint64(len(all))])
		for _, op := range Operations(k.Format.Name) {
			n, err := PowerLoss(t, k, k, op, seed, 6, nil)
			states += n
			if err != nil {
				t.Fatalf("%s on %s: %v", op.Name, k.Name, err)
			}
		}
	}
	t.Logf("%d states", states)
}

// Each sync is there for a reason: without any one of them something is lost.
func TestLeavingOutASyncIsSeen(t *testing.T) {
	t.Parallel()
	k := kits()[0]
	for i, op := range Operations(k.Format.Name) {
		if wantStates(t) <= fewStates && i%3 != 0 {
			continue // like the ones before
		}
		syncs := syncsOf(t, k, op)
		for i, place := range syncs {
			if why := notSeen(syncs, i); why != "" {
				t.Logf("%s, sync %d of %s: %s", op.Name, i+1, place, why)
				continue
			}
			t.Run(fmt.Sprintf("%s, sync %d of %d of %s", op.Name, i+1, len(syncs), place), func(t *testing.T) {
				for seed := uint64(3); seed < 16; seed++ {
					if _, err := PowerLoss(t, k, k, op, seed, 16, leaveOut(i)); err != nil {
						return
					}
				}
				t.Error("nothing was lost")
			})
		}
	}
}

// notSeen says why nothing is lost here without the i-th sync, or "".
func notSeen(syncs []string, i int) string {
	switch {
	case syncs[i] == dir:
		return "names become durable in order in the simulation, which not every file system promises"
	case i == len(syncs)-1:
		return "the new backing name is as good as the old one"
	case len(syncs) == 4 && i == 1:
		return "of the table: the sync of the new backing name comes before the header tells of it"
	case len(syncs) > 4 && slices.Index(syncs, targetOf(syncs)) == i:
		return "of the new size: the sync after the data comes before anything rests on it"
	}
	return ""
}

// targetOf returns the first file that is synced and no journal.
func targetOf(syncs []string) string {
	i := slices.IndexFunc(syncs, func(p string) bool { return p != dir && !isTemp(filepath.Base(p)) })
	return syncs[i]
}

// leaveOut lets the i-th sync of any file or directory do nothing.
func leaveOut(i int) func(*vfstest.Mem) {
	return func(m *vfstest.Mem) {
		n := 0
		m.NoSync(func(string, int) bool { n++; return n == i+1 })
	}
}

// syncsOf lists what an operation syncs.
func syncsOf(t *testing.T, k Kit, op Operation) (paths []string) {
	f := newForest(t, k, k, op, 3)
	f.mem.NoSync(func(path string, _ int) bool { paths = append(paths, path); return false })
	if err := op.Do(t.Context(), f.store()); err != nil {
		t.Fatal(err)
	}
	return paths
}
