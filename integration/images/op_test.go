package images_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/integration/images"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/qcow2"
)

// An op is one operation of the engine on a tree of images: pure data.
type op struct {
	// commit, pull, rebase, relink (rebase of the name only), convert, copy (convert
	// keeping the chain), compare, resize; into writes over an image; take, drop
	// and revert are about internal snapshots; write is QEMU's
	Kind     string
	Layer    int  // the top of a commit, the image of the others
	Base     int  // what it is merged into, pulled to, rebased to, compared with
	Absolute bool // how the new backing file is named
	Keep     bool // of a commit
	Sparse   bool // of a convert
	Raw      bool // of a convert
	Targets  []qcow2.CreateOptions
	// Stop is the share of its progress at which the operation is cancelled, to be
	// done again; negative for not at all.
	Stop float64
	// Die is the share of its changes of files after which all further ones fail, as
	// if the process were dead; negative for not at all.
	Die     float64
	Size    int64      // of a resize
	Room    chain.Room // of one that grows
	Snap    string     // the internal snapshot
	Writes  []images.Write
	written *images.Content
	Recover bool // what was interrupted is finished by Recover, not by doing it again
}

var kinds = []string{"commit", "commit", "commit", "pull", "pull", "rebase", "rebase", "relink", "write", "convert", "copy", "compare", "resize", "resize", "into", "take", "drop", "revert"}

// randomOp picks an operation that the tree can have.
func randomOp(rng *rand.Rand, b *bench) op {
	t := b.tree
	o := op{Absolute: rng.IntN(2) == 0, Keep: rng.IntN(8) == 0, Sparse: rng.IntN(2) == 0,
		Raw: rng.IntN(3) == 0, Stop: -1, Die: -1, Recover: rng.IntN(2) == 0}
	switch rng.IntN(4) {
	case 0:
		o.Stop = rng.Float64()
	case 1:
		o.Die = rng.Float64()
	}
	for {
		o.Kind, o.Layer, o.Base = kinds[rng.IntN(len(kinds))], rng.IntN(len(t.Layers)), images.None
		if o.pickBase(rng, b) {
			break
		}
	}
	for range t.Below(o.Layer) {
		o.Targets = append(o.Targets, randomTarget(rng))
	}
	return o
}

// pickBase chooses what the operation is about beside o.Layer; false if there
// is nothing.
func (o *op) pickBase(rng *rand.Rand, b *bench) bool {
	t := b.tree
	below := t.Below(o.Layer)
	below = below[:len(below)-1]
	switch o.Kind {
	case "commit":
		if len(below) == 0 {
			return false
		}
		o.Base = below[rng.IntN(len(below))]
		return o.refusal(b) == "" || rng.IntN(20) == 0
	case "pull":
		if len(below) == 0 {
			return false
		}
		if rng.IntN(3) > 0 {
			o.Base = below[rng.IntN(len(below))]
		}
	case "rebase":
		if rng.IntN(4) > 0 {
			o.Base = rng.IntN(len(t.Layers))
		}
		return t.Layers[o.Layer].Format != "raw" && (o.Base == images.None || !contains(t.Below(o.Base), o.Layer))
	case "relink":
		o.Base = t.Layers[o.Layer].On
		return o.Base != images.None
	case "write":
		o.Writes = images.Writes(rng, b.was[o.Layer].Size)
		return len(t.Children(o.Layer)) == 0
	case "resize":
		o.Size = images.Near(rng, b.was[o.Layer].Size)
		if o.Size > b.was[o.Layer].Size {
			o.Room = chain.Room(max(0, rng.IntN(6)-2))
		}
		if t.Layers[o.Layer].Format == "raw" && o.Room == chain.RoomMetadata {
			o.Room = chain.RoomFalloc
		}
		return o.refusal(b) == "" || rng.IntN(20) == 0
	case "into":
		o.Base = rng.IntN(len(t.Layers))
		return o.fitsInto(b)
	case "take", "drop", "revert":
		return o.pickSnapshot(rng, b)
	case "compare":
		o.Base = rng.IntN(len(t.Layers))
	}
	return true
}

func contains(list []int, i int) bool {
	for _, k := range list {
		if k == i {
			return true
		}
	}
	return false
}

func randomTarget(rng *rand.Rand) qcow2.CreateOptions {
	o := qcow2.CreateOptions{ClusterSize: 512 << rng.IntN(13), Version: 3}
	if rng.IntN(6) == 0 {
		o.Version = 2
		return o
	}
	o.RefcountBits = 1 << rng.IntN(7)
	o.LazyRefcounts = rng.IntN(3) == 0
	if rng.IntN(3) == 0 {
		o.CompressionType = qcow2.CompressionZstd
	}
	if o.ClusterSize >= 16<<10 && rng.IntN(3) == 0 {
		o.ExtendedL2 = true
	}
	return o
}

// run plans the operation and carries it out. Progress is told to done once the
// amount is known.
func (o *op) run(ctx context.Context, fs vfs.FS, b *bench, done func(n, of int64)) error {
	s := b.store(fs)
	switch o.Kind {
	case "commit":
		return o.commit(ctx, s, b, done)
	case "pull":
		return o.pull(ctx, s, b, done)
	case "rebase":
		return o.rebase(ctx, s, b, done)
	case "relink":
		name, format := o.backing(b)
		return s.Relink(b.path(o.Layer), b.tree.Layers[o.Layer].Format, name, format)
	case "convert":
		return o.convert(ctx, s, b, done)
	case "resize":
		p, err := s.PlanResize(chain.ResizeRequest{Path: b.path(o.Layer), Format: b.tree.Layers[o.Layer].Format,
			Size: func(int64) int64 { return o.Size }, Room: o.Room, Scan: b.dirs()})
		if err != nil {
			return err
		}
		return s.Resize(ctx, p, func(n int64) { done(n, o.Size-b.was[o.Layer].Size) })
	case "into":
		return o.into(ctx, s, b, done)
	case "take", "drop", "revert":
		return o.changeSnapshots(fs, b)
	case "copy":
		return o.copyChain(ctx, s, b, done)
	}
	return o.compare(ctx, s, b)
}

func of(done func(n, of int64), a chain.Amount) func(int64) {
	return func(n int64) { done(n, a.Bytes) }
}

func (o *op) commit(ctx context.Context, s *chain.Store, b *bench, done func(n, of int64)) error {
	r := chain.CommitRequest{Top: b.path(o.Layer), Format: b.tree.Layers[o.Layer].Format, Base: b.path(o.Base), Keep: o.Keep, Scan: b.dirs()}
	m, err := s.PlanCommit(ctx, r)
	if err != nil {
		return err
	}
	return s.Commit(ctx, m, of(done, m.Amount))
}

func (o *op) pull(ctx context.Context, s *chain.Store, b *bench, done func(n, of int64)) error {
	base := ""
	if o.Base != images.None {
		base = b.path(o.Base)
	}
	p, err := s.PlanPull(ctx, b.path(o.Layer), b.tree.Layers[o.Layer].Format, base)
	if err != nil {
		return err
	}
	return s.Pull(ctx, p, of(done, p.Amount))
}

func (o *op) rebase(ctx context.Context, s *chain.Store, b *bench, done func(n, of int64)) error {
	name, format := o.backing(b)
	r, err := s.PlanRebase(ctx, b.path(o.Layer), b.tree.Layers[o.Layer].Format, name, format)
	if err != nil {
		return err
	}
	return s.Rebase(ctx, r, of(done, r.Amount))
}

// backing is the new backing file of a rebase, as the header is to have it.
func (o *op) backing(b *bench) (name, format string) {
	if o.Base == images.None {
		return "", ""
	}
	name = b.path(o.Base)
	if rel, err := filepath.Rel(filepath.Dir(b.path(o.Layer)), name); err == nil && !o.Absolute {
		name = rel
	}
	return name, b.tree.Layers[o.Base].Format
}

// convert makes out, qcow2 or raw, of the whole disk.
func (o *op) convert(ctx context.Context, s *chain.Store, b *bench, done func(n, of int64)) error {
	nodes, err := s.Chain(b.path(o.Layer), b.tree.Layers[o.Layer].Format)
	if err != nil {
		return err
	}
	size := nodes[len(nodes)-1].Image.VirtualSize
	to, err := o.fresh(s, b, b.outName(len(nodes)-1), o.Raw, o.target(len(nodes)-1, size, ""))
	if err != nil {
		return err
	}
	err = s.Convert(ctx, nodes, to, chain.ConvertOptions{Sparse: o.Sparse}, func(n int64) { done(n, size) })
	if closed := to.Close(); err == nil {
		err = closed
	}
	return err
}

// copyChain converts each layer into one of its own.
func (o *op) copyChain(ctx context.Context, s *chain.Store, b *bench, done func(n, of int64)) error {
	nodes, err := s.Chain(b.path(o.Layer), b.tree.Layers[o.Layer].Format)
	if err != nil {
		return err
	}
	for i := range nodes {
		backing := ""
		if i > 0 {
			backing = b.outName(i - 1)
		}
		to, err := o.fresh(s, b, b.outName(i), false, o.target(i, nodes[i].Image.VirtualSize, backing))
		if err != nil {
			return err
		}
		err = s.Convert(ctx, nodes[:i+1], to, chain.ConvertOptions{Own: true, Sparse: o.Sparse}, func(n int64) { done(n, nodes[i].Image.VirtualSize) })
		if closed := to.Close(); err == nil {
			err = closed
		}
		if err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
	}
	return nil
}

func (b *bench) outName(i int) string { return fmt.Sprintf("out%d-%d.img", b.round, i) }

func (o *op) target(i int, size int64, backing string) qcow2.CreateOptions {
	c := o.Targets[i]
	c.Size, c.Backing = size, backing
	if backing != "" {
		c.BackingFormat = "qcow2"
	}
	return c
}

// fresh makes an empty image.
func (o *op) fresh(s *chain.Store, b *bench, name string, raw bool, c qcow2.CreateOptions) (chain.Target, error) {
	path := filepath.Join(b.dir, name)
	f, err := s.FS.Create(path, 0o600)
	if err != nil {
		return nil, err
	}
	format := "raw"
	if raw {
		err = f.Truncate(c.Size)
	} else {
		format, err = "qcow2", qcow2.Create(f, c)
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return nil, err
	}
	to, err := images.OpenImage(s, path, format, true)
	if err != nil {
		return nil, err
	}
	return to.(chain.Target), nil
}

// compare compares two disks, and the answer with what their bytes say.
func (o *op) compare(ctx context.Context, s *chain.Store, b *bench) error {
	x, err := s.Chain(b.path(o.Layer), b.tree.Layers[o.Layer].Format)
	if err != nil {
		return err
	}
	y, err := s.Chain(b.path(o.Base), b.tree.Layers[o.Base].Format)
	if err != nil {
		return err
	}
	got, err := s.Compare(ctx, x, y, false, nil)
	if err != nil {
		return err
	}
	was, next := b.was[o.Layer], b.was[o.Base]
	size := max(was.Size, next.Size)
	at := was.Resized(size).Diff(next.Resized(size))
	want := chain.Comparison{Same: at < 0, Sizes: was.Size != next.Size}
	if at >= 0 {
		want.Offset, want.Longer = at, at >= min(was.Size, next.Size)
	}
	if got != want {
		return fmt.Errorf("compare: %+v, want %+v", got, want)
	}
	return nil
}
