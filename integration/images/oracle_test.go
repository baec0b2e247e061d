package images_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/images"
)

// Defaults of what the environment chooses.
const (
	defaultChains = 200 // VIRT_ROTATE_CHAINS: random chains
	defaultSeed   = 1   // VIRT_ROTATE_SEED
	opsPerChain   = 3
	shrinkTime    = 10 * time.Second
)

func fromEnv(t *testing.T, name string, value uint64) uint64 {
	s := os.Getenv(name)
	if s == "" {
		return value
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// patterns is a directory with the pattern files.
func patterns(t *testing.T) string {
	dir := t.TempDir()
	if err := images.WritePatterns(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A tally counts what has become of operations.
type tally struct{ done, refused atomic.Int64 }

func (t *tally) count(refused string) {
	if refused != "" {
		t.refused.Add(1)
	} else {
		t.done.Add(1)
	}
}

func TestRandomChainsReadAsBefore(t *testing.T) {
	chains, seed := fromEnv(t, "VIRT_ROTATE_CHAINS", defaultChains), fromEnv(t, "VIRT_ROTATE_SEED", defaultSeed)
	dir := patterns(t)
	var total tally
	t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
		for i := range chains {
			t.Run(fmt.Sprintf("chain=%d", i), func(t *testing.T) {
				t.Parallel()
				testChain(t, seed, i, dir, &total)
			})
		}
	})
	done, refused := total.done.Load(), total.refused.Load()
	t.Logf("%d chains, %d operations, %d of them refused", chains, done+refused, refused)
	if chains >= defaultChains && refused*10 > done {
		t.Errorf("%d operations were refused, %d done", refused, done)
	}
}

// testChain makes one random tree of images and does some operations: each on the
// images as they were at first, or on what the one before has left.
func testChain(t *testing.T, seed, i uint64, patterns string, total *tally) {
	rng := rand.New(rand.NewPCG(seed, i))
	tree := images.Random(rng)
	b, err := newBench(t.Context(), t.TempDir(), patterns, &tree, rng)
	if err != nil {
		t.Fatalf("%v\n%s", err, tree.Script())
	}
	var done []op
	for range opsPerChain {
		o := randomOp(rng, b)
		refused, err := b.drive(t.Context(), &o)
		if err != nil {
			t.Fatalf("%v\n%s\nDo it again with: VIRT_ROTATE_SEED=%d go test -run 'Random/seed=%d/chain=%d$' ./integration/images",
				err, shrink(t, &tree, append(done, o), patterns), seed, seed, i)
		}
		total.count(refused)
		if refused != "" || !o.canFollow() || rng.IntN(3) == 0 {
			err = b.restore()
		} else {
			done = append(done, o)
			err = b.follow(&o)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// shrink leaves out operations and steps of the tree as long as the last operation
// still fails, and tells what remains.
func shrink(t *testing.T, tree *images.Tree, ops []op, patterns string) string {
	small, deadline := tree.Clone(), time.Now().Add(shrinkTime)
	try := func(tree *images.Tree, ops []op) bool {
		return time.Now().Before(deadline) && fails(t.Context(), filepath.Join(t.TempDir(), "small"), patterns, tree, ops)
	}
	for i := range small.Layers {
		for k := len(small.Layers[i].Steps) - 1; k >= 0; k-- {
			next := small.Clone()
			next.Layers[i].Steps = append(next.Layers[i].Steps[:k], next.Layers[i].Steps[k+1:]...)
			if try(next, ops) {
				small = next
			}
		}
	}
	text := "The images are made by:\n" + small.Script() + "Then:\n"
	for _, o := range ops {
		text += fmt.Sprintf("%+v\n", o)
	}
	return text
}

// fails tells whether the last operation fails on a tree that can be made.
func fails(ctx context.Context, dir, patterns string, tree *images.Tree, ops []op) bool {
	defer os.RemoveAll(dir)
	b, err := newBench(ctx, dir, patterns, tree, rand.New(rand.NewPCG(1, 1)))
	if err != nil {
		return false
	}
	for i := range ops {
		_, err := b.drive(ctx, &ops[i])
		if err != nil || i == len(ops)-1 {
			return err != nil && i == len(ops)-1
		}
		if b.follow(&ops[i]) != nil {
			return false
		}
	}
	return false
}
