package images_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/images"
)

// row makes a tree of layers one on the other.
func row(layers ...images.Layer) images.Tree {
	for i := range layers {
		l := &layers[i]
		l.On, l.CopyOf = i-1, images.None
		if l.Format == "" {
			l.Format = "qcow2"
		}
		if l.Name == "" {
			l.Name = fmt.Sprintf("l%d.%s", i, l.Format)
		}
	}
	return images.Tree{Layers: layers}
}

// branch adds a layer on the layer of that name.
func branch(t images.Tree, on string, l images.Layer) images.Tree {
	l.On, l.CopyOf, l.Format = t.Find(on), images.None, "qcow2"
	t.Layers = append(t.Layers, l)
	return t
}

// layer is a qcow2 image.
func layer(size int64, options string, steps ...string) images.Layer {
	return images.Layer{Size: size, Options: options, Steps: steps}
}

func raw(size int64, steps ...string) images.Layer {
	return images.Layer{Format: "raw", Size: size, Steps: steps}
}

const (
	kib = 1 << 10
	mib = 1 << 20
)

// fill writes all of a disk of n bytes.
func fill(pattern int, n int64) string { return fmt.Sprintf("write -s $P/p%d 0 %d", pattern, n) }

// directed are the known traps.
var directed = []struct {
	name string
	tree images.Tree
}{
	{"zeros over data stay zeros", row(
		layer(2*mib, "cluster_size=64k", fill(0, 2*mib)),
		layer(0, "cluster_size=64k", "write -z 0 256k", "write -z -u 512k 64k", "discard 1M 128k", "write -z 100k 1k"),
		layer(0, "cluster_size=64k", "write -z 1920k 128k", "write -s $P/p3 1M 4k"))},
	{"zeros over data, large over small clusters", row(
		raw(2*mib, fill(0, 2*mib)),
		layer(0, "cluster_size=512", fill(1, mib), "write -z 4k 8k", "discard 256k 64k"),
		layer(0, "cluster_size=2M,extended_l2=on", "write -z 128k 64k", "write -z -u 1M 512k"))},
	{"zeros over data, small over large clusters", row(
		layer(4*mib, "cluster_size=2M", fill(0, 4*mib)),
		layer(0, "cluster_size=2M,extended_l2=on", "write -z 0 1M", "write -s $P/p1 64k 64k", "discard 2M 2M"),
		layer(0, "cluster_size=512", "write -z 512 512", "write -z 2M 64k", "write -s $P/p2 3M 1k"))},
	{"version 2 has no zero flag", row(
		layer(mib, "compat=0.10", fill(0, mib)),
		layer(0, "compat=0.10", "write -s $P/p1 0 64k", "write -z 128k 64k"),
		layer(0, "", "write -z 0 512k", "write -z -u 704k 64k", "discard 960k 64k"),
		layer(0, "compat=0.10", "write -s $P/p2 32k 4k"))},
	{"what is below does not show through beyond a short layer", row(
		layer(4*mib, "cluster_size=64k", fill(0, 4*mib)),
		layer(mib+1536, "cluster_size=64k"),
		layer(3*mib+512, "cluster_size=4k", "write -s $P/p1 2M 8k"))},
	{"a short layer with data at its end", row(
		layer(4*mib, "cluster_size=64k", fill(0, 4*mib)),
		layer(mib+1536, "cluster_size=64k", "write -s $P/p2 1M 1k"),
		layer(3*mib+512, "cluster_size=4k"))},
	{"a short layer with subclusters at its end", row(
		layer(4*mib, "cluster_size=64k", fill(0, 4*mib)),
		layer(mib+2048, "cluster_size=64k,extended_l2=on", "write -s $P/p2 1M 2k"),
		layer(3*mib+512, "cluster_size=4k"))},
	{"a short layer with zeros at its end", row(
		layer(4*mib, "cluster_size=64k", fill(0, 4*mib)),
		layer(mib+3072, "cluster_size=64k", "write -z 1M 3k"),
		layer(3*mib, "cluster_size=64k,extended_l2=on", "write -z 1M 64k"))},
	{"a short compressed layer", row(
		layer(4*mib, "cluster_size=64k", fill(0, 4*mib)),
		layer(mib+3072, "cluster_size=64k", "write -c -s $P/p1 960k 67k"),
		layer(3*mib, "cluster_size=64k"))},
	{"a short layer of version 2", row(
		layer(4*mib, "cluster_size=64k", fill(0, 4*mib)),
		layer(mib+3072, "cluster_size=64k,compat=0.10", "write -s $P/p1 512k 64k"),
		layer(3*mib, "cluster_size=64k"))},
	{"the top is the shortest", row(
		layer(4*mib, "cluster_size=64k", fill(0, 4*mib)),
		layer(0, "cluster_size=64k,extended_l2=on", "write -s $P/p1 1M 1M"),
		layer(mib+1536, "cluster_size=4k", "write -s $P/p2 0 4k"),
		layer(2*mib, "cluster_size=64k", "write -s $P/p3 64k 4k"))},
	{"the top is the shortest, on compressed clusters", row(
		layer(4*mib, "cluster_size=64k", "write -c -s $P/p1 0 4M"),
		layer(mib+1536, "cluster_size=4k", "write -s $P/p2 0 4k"),
		layer(2*mib, "cluster_size=64k"))},
	{"a base that ends within a cluster", row(
		layer(mib+512, "cluster_size=1M", fill(0, mib+512)),
		layer(3*mib, "cluster_size=64k", "write -s $P/p2 1M 4k", "write -s $P/p3 2M 512k"))},
	{"a raw base that ends within a sector", row(
		raw(64*kib, fill(0, 64*kib), "!resize -q -f raw --shrink * 50000"),
		layer(128*kib, "cluster_size=4k", "write -s $P/p2 49152 512"))},
	{"an image whose last cluster ends with the file, and that grows", row(
		layer(205312, "cluster_size=1024", "write -s $P/p2 100864 20992"),
		layer(202752, "cluster_size=256k,extended_l2=on", "write -P 1 0 202752", "write -z 69120 133632"),
		layer(241152, "cluster_size=64k", "write -s $P/p3 0 241152"))},
	{"preallocated clusters", row(
		layer(2*mib+512, "cluster_size=64k,preallocation=metadata", "write -z 0 512k", "write -s $P/p1 512k 4k"),
		layer(0, "cluster_size=64k,extended_l2=on,preallocation=metadata", "write -z 1M 32k", "write -s $P/p2 1536k 2k"),
		layer(0, "cluster_size=4k", "write -z 512k 4k"))},
	{"a preallocated image that was resized", row(
		layer(mib+512, "cluster_size=64k,preallocation=metadata", "write -s $P/p1 512k 4k", "!resize -q -f qcow2 * 3M"),
		layer(0, "cluster_size=4k", "write -s $P/p2 1M 1M"))},
	{"compressed clusters that are overwritten in part", row(
		layer(2*mib, "cluster_size=64k", "write -c -s $P/p1 0 2M"),
		layer(0, "cluster_size=4k", "write -s $P/p2 30k 2k", "write -z 100k 1k", "write -s $P/p3 512k 512k"),
		layer(0, "cluster_size=64k", "write -c -s $P/p4 1M 512k"))},
	{"compressed clusters that do not get shorter", row(
		layer(2*mib, "cluster_size=64k,compression_type=zstd"),
		layer(0, "cluster_size=64k,compression_type=zstd", "write -c -s $P/p2 0 2M"),
		layer(0, "cluster_size=64k,compression_type=zstd", "write -c -s $P/p5 512k 512k", "discard 1M 128k"))},
	{"compressed clusters of 512 bytes", row(
		layer(256*kib, "cluster_size=512"),
		layer(0, "cluster_size=512", "write -c -s $P/p2 0 128k"),
		layer(0, "cluster_size=512,refcount_bits=1", "write -c -s $P/p5 64k 64k"))},
	{"refcounts of one bit", row(
		layer(mib, "cluster_size=4k,refcount_bits=1", "write -c -s $P/p1 0 512k", "write -s $P/p2 512k 256k"),
		layer(0, "cluster_size=4k,refcount_bits=1", "write -c -s $P/p2 256k 512k"),
		layer(0, "cluster_size=64k,refcount_bits=1", "write -s $P/p3 100k 1k", "write -c -s $P/p4 0 64k"))},
	{"refcounts of 64 bits, a table that grows", row(
		layer(8*mib, "cluster_size=512,refcount_bits=64"),
		layer(0, "cluster_size=2M", fill(0, 6*mib)),
		layer(0, "cluster_size=512,refcount_bits=64", "write -s $P/p1 1M 256k"))},
	{"an L1 table that grows", row(
		layer(64*kib, "cluster_size=512", fill(0, 64*kib)),
		layer(8*mib, "cluster_size=64k", "write -s $P/p1 7M 512k", "write -s $P/p2 0 4k"))},
	{"an L1 table that grows over what is below", row(
		layer(8*mib, "cluster_size=64k", fill(0, 8*mib)),
		layer(64*kib, "cluster_size=512", fill(1, 64*kib)),
		layer(8*mib, "cluster_size=64k", "write -s $P/p1 7M 512k", "write -s $P/p2 0 4k"))},
	{"internal snapshots of the base", row(
		layer(2*mib, "cluster_size=64k", fill(0, mib), "write -c -s $P/p1 1M 256k", "write -z 1536k 64k", "!snapshot -c s1 *",
			"write -s $P/p2 512k 256k", "write -c -s $P/p3 1M 128k", "!snapshot -c s2 *", "write -z 0 128k"),
		layer(0, "cluster_size=4k", "write -s $P/p4 0 32k", "write -s $P/p4 1M 192k", "write -z 640k 64k"),
		layer(3*mib, "cluster_size=64k", "write -s $P/p5 1536k 1M"))},
	{"internal snapshots of a base that gets shorter", row(
		layer(2*mib, "cluster_size=64k", fill(0, 2*mib), "!snapshot -c s1 *", "write -s $P/p2 1M 256k"),
		layer(mib+512, "cluster_size=4k", "write -s $P/p4 0 32k"))},
	{"internal snapshots of a base of version 2", row(
		layer(2*mib, "compat=0.10", fill(0, 2*mib), "!snapshot -c s1 *", "write -s $P/p2 1M 256k"),
		layer(0, "cluster_size=4k", "write -s $P/p4 0 32k"),
		layer(mib, "cluster_size=4k", "write -s $P/p4 32k 32k"))},
	{"internal snapshots of a layer in the middle", row(
		layer(mib, "", fill(0, mib)),
		layer(0, "", "write -s $P/p1 0 128k", "!snapshot -c s1 *", "write -s $P/p2 64k 128k"),
		layer(0, "", "write -s $P/p3 512k 4k"))},
	{"a base without data gets a base", branch(row(
		layer(mib, "cluster_size=64k", "write -s $P/p1 0 4k", "write -z 512k 64k"),
		layer(0, "cluster_size=4k", "write -s $P/p2 64k 64k")),
		"l0.qcow2", images.Layer{Name: "other.qcow2", Options: "compat=0.10", Steps: []string{fill(3, mib)}})},
	{"several children", branch(branch(branch(row(
		layer(mib, "", fill(0, mib)),
		layer(0, "", "write -s $P/p1 0 128k")),
		"l1.qcow2", images.Layer{Name: "a.qcow2", Absolute: true, Options: "cluster_size=512"}),
		"l1.qcow2", images.Layer{Name: "b.qcow2", Options: "cluster_size=512"}),
		"l1.qcow2", images.Layer{Name: "other/c.qcow2", Options: "compat=0.10"})},
	{"no layer has any data", row(layer(mib, ""), layer(0, "compat=0.10"), layer(2*mib, "extended_l2=on"))},
	{"disks of no bytes", row(layer(0, ""), layer(64*kib, "", fill(0, 64*kib)), layer(512, "cluster_size=512"))},
	{"disks of one sector", row(raw(512, fill(1, 512)), layer(512, "cluster_size=2M", fill(2, 512)), layer(1024, "cluster_size=512"))},
	{"lazy refcounts", row(
		layer(mib, "lazy_refcounts=on", fill(0, mib)),
		layer(0, "lazy_refcounts=on,cluster_size=4k", "write -s $P/p1 0 128k", "discard 64k 4k"))},
	{"an L1 table that is longer than the disk needs", row(
		layer(16<<30, "", "write -s $P/p1 0 64k", "write -s $P/p2 15G 64k", "!resize -q -f qcow2 --shrink * 3M"),
		layer(4*mib, "cluster_size=4k", "write -s $P/p1 64k 64k"))},
}

func TestKnownTraps(t *testing.T) {
	dir := patterns(t)
	for _, c := range directed {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			driveAll(t, &c.tree, dir)
		})
	}
}

// driveAll does every commit, whole and interrupted, every pull, and what else there
// is on the topmost images.
func driveAll(t *testing.T, tree *images.Tree, patterns string) {
	rng := rand.New(rand.NewPCG(1, uint64(len(t.Name()))))
	b, err := newBench(t.Context(), t.TempDir(), patterns, tree, rng)
	if err != nil {
		t.Fatalf("%v\n%s", err, tree.Script())
	}
	for _, o := range allOps(rng, tree) {
		if _, err := b.drive(t.Context(), &o); err != nil {
			t.Errorf("%+v\n%v\n%s", o, err, tree.Script())
		}
		if err := b.restore(); err != nil {
			t.Fatal(err)
		}
	}
}

func allOps(rng *rand.Rand, t *images.Tree) []op {
	var ops []op
	add := func(kind string, layer, base int) {
		o := op{Kind: kind, Layer: layer, Base: base, Stop: -1, Die: -1, Sparse: len(ops)%2 == 0, Recover: len(ops)%3 == 0}
		for range t.Below(layer) {
			o.Targets = append(o.Targets, randomTarget(rng))
		}
		ops = append(ops, o)
	}
	for i := range t.Layers {
		below := t.Below(i)
		leaf := len(t.Children(i)) == 0
		for _, k := range below[:len(below)-1] {
			add("commit", i, k)
			add("commit", i, k)
			ops[len(ops)-1].Die = rng.Float64()
			add("pull", i, k)
		}
		if len(below) > 1 {
			add("pull", i, images.None)
		}
		for k := range t.Layers {
			if t.Layers[i].Format == "qcow2" && !contains(t.Below(k), i) && (leaf || !contains(below, k)) {
				add("rebase", i, k)
			}
		}
		if leaf {
			add("rebase", i, images.None)
			add("copy", i, images.None)
			add("convert", i, images.None)
		}
	}
	return ops
}

func TestLongChain(t *testing.T) {
	layers := []images.Layer{layer(2*mib, "", fill(0, mib))}
	for i := range 29 {
		layers = append(layers, layer(0, "cluster_size=4k", fmt.Sprintf("write -s $P/p%d %dk 64k", i%8, i*50), fmt.Sprintf("write -z %dk 8k", i*20)))
	}
	tree := row(layers...)
	driveThese(t, &tree, commit(29, 0), commit(15, 3), pull(29, images.None), pull(20, 4), rebase(29, 0))
}

func TestHugeSparseDisk(t *testing.T) {
	tree := row(
		layer(8<<30, "", "write -s $P/p1 0 64k", "write -s $P/p2 5G 1M"),
		layer(0, "cluster_size=4k", "write -s $P/p3 7G 64k", "write -z 5G 64k"),
		layer(16<<30, "", "write -s $P/p4 15G 64k", "write -z -u 1G 1G"))
	driveThese(t, &tree, commit(2, 0), pull(2, 0), rebase(1, images.None))
}

// TestChildKeepsItsBitmaps: another base is no other content.
func TestChildKeepsItsBitmaps(t *testing.T) {
	tree := row(layer(mib, ""), layer(0, "", fill(1, mib)), layer(0, "", "!bitmap --add * b0", "!bitmap --add -g 64k * b1"))
	b := driveThese(t, &tree)
	o := commit(1, 0)
	if err := b.runAll(t.Context(), &o); err != nil {
		t.Fatal(err)
	}
	if err := b.verify(t.Context(), o.after(b)); err != nil {
		t.Error(err)
	}
	out, err := images.QemuImg(t.Context(), "info", "-f", "qcow2", b.path(2))
	if err != nil || !strings.Contains(string(out), "name: b0") || !strings.Contains(string(out), "name: b1") {
		t.Errorf("%v: %s", err, out)
	}
}

// driveThese does the operations, each on the images as they are at first.
func driveThese(t *testing.T, tree *images.Tree, ops ...op) *bench {
	t.Helper()
	b, err := newBench(t.Context(), t.TempDir(), patterns(t), tree, rand.New(rand.NewPCG(1, 1)))
	if err != nil {
		t.Fatalf("%v\n%s", err, tree.Script())
	}
	for _, o := range ops {
		o.Stop, o.Die = -1, -1
		if _, err := b.drive(t.Context(), &o); err != nil {
			t.Errorf("%+v\n%v\n%s", o, err, tree.Script())
		}
		if err := b.restore(); err != nil {
			t.Fatal(err)
		}
	}
	return b
}
