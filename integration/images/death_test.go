package images_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/images"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
)

var errDead = errors.New("the process is dead")

// A mortal is the file system of a process that is killed after so many changes of
// files: what was changed before stays.
type mortal struct {
	vfs.FS
	changes atomic.Int64
}

// newMortal allows last changes; negative: all.
func newMortal(last int64) *mortal {
	m := &mortal{}
	m.FS = vfstest.Mortal(vfs.OS(), func(string, string) error {
		if n := m.changes.Add(1); last >= 0 && n > last {
			return errDead
		}
		return nil
	})
	return m
}

// deaths are operations in which each change of a file is the last one once.
var deaths = []struct {
	name string
	tree images.Tree
	op   op
}{
	{"tables that grow over what is below", row(
		layer(8*mib, "cluster_size=64k", fill(0, 8*mib)),
		layer(1930*kib, "cluster_size=512,refcount_bits=64", fill(1, 1930*kib)),
		layer(8*mib, "cluster_size=64k", "write -s $P/p1 7M 64k", "write -s $P/p2 0 4k")), commit(2, 1)},
	{"data over compressed clusters and a snapshot", row(
		layer(mib, "cluster_size=4k", "write -c -s $P/p1 0 1M", "!snapshot -c s1 *"),
		layer(0, "cluster_size=64k", "write -s $P/p2 512k 128k", "write -z 64k 64k"),
		layer(mib-512, "cluster_size=4k", "write -s $P/p3 64k 8k"),
		layer(0, "", "write -s $P/p3 0 8k")), commit(2, 0)},
	{"several children", branch(branch(row(
		raw(mib, fill(0, mib)),
		layer(0, "extended_l2=on", "write -s $P/p1 0 128k", "write -z 256k 2k"),
		layer(0, "cluster_size=512")),
		"l1.qcow2", images.Layer{Name: "a.qcow2", Absolute: true}),
		"l1.qcow2", images.Layer{Name: "other/b.qcow2", Options: "compat=0.10"}), commit(1, 0)},
	{"rebase of version 2", branch(row(
		layer(mib, "cluster_size=64k", fill(0, mib)),
		layer(0, "compat=0.10,cluster_size=4k", "write -s $P/p1 0 4k")),
		"l0.qcow2", images.Layer{Name: "other.qcow2", Size: mib / 2, Steps: []string{"write -z 256k 64k", "write -s $P/p4 128k 64k"}}), rebase(1, 2)},
	{"pull", row(
		layer(mib, "cluster_size=512", fill(0, mib)),
		layer(0, "cluster_size=4k", "write -c -s $P/p1 0 128k", "write -z 512k 64k"),
		layer(0, "cluster_size=4k", "write -s $P/p2 0 4k")), pull(2, images.None)},
}

// TestProcessDiesAtEveryChange takes one change in so many, unless all are asked for.
func TestProcessDiesAtEveryChange(t *testing.T) {
	dir, step := patterns(t), int64(7)
	if fromEnv(t, "VIRT_ROTATE_CHAINS", defaultChains) > defaultChains {
		step = 1
	}
	for _, c := range deaths {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b, err := newBench(t.Context(), t.TempDir(), dir, &c.tree, rand.New(rand.NewPCG(1, 1)))
			if err != nil {
				t.Fatal(err)
			}
			for n := int64(0); ; n += step {
				c.op.Stop, c.op.Recover = -1, n/step%2 == 0
				if !b.dieAt(t, &c.op, n) {
					t.Logf("%d changes", n)
					return
				}
			}
		})
	}
}

// dieAt allows n changes, then the operation is done again; false if n are enough.
func (b *bench) dieAt(t *testing.T, o *op, n int64) bool {
	fs := newMortal(n)
	died := o.run(t.Context(), fs, b, func(int64, int64) {}) != nil
	want, during := o.after(b), o.during(b)
	want.leaks, during.leaks = o.Kind != "commit" && o.Kind != "pull", true
	err := b.verify(t.Context(), during)
	if err == nil && died {
		err = b.goOn(t.Context(), o, want)
	} else if err == nil {
		err = b.verify(t.Context(), want)
	}
	if err == nil {
		err = b.nothingNoted()
	}
	if err != nil {
		t.Fatalf("after %d changes: %v\n%s", n, err, b.tree.Script())
	}
	if err := b.restore(); err != nil {
		t.Fatal(fmt.Errorf("restore: %w", err))
	}
	return died
}

// nothingNoted wants no note of an image that is being filled.
func (b *bench) nothingNoted() error {
	left, err := os.ReadDir(b.fills)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("%s is left", left[0].Name())
	}
	return err
}
