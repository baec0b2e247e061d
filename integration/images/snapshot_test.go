package images_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/images"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/qcow2"
)

// Operations that write over an image, and those on internal snapshots.

// fitsInto tells whether the disk of o.Layer can be written over that of o.Base.
func (o *op) fitsInto(b *bench) bool {
	t := b.tree
	return !contains(t.Below(o.Layer), o.Base) && !contains(t.Below(o.Base), o.Layer) &&
		len(t.Children(o.Base)) == 0 && b.was[o.Layer].Size <= b.was[o.Base].Size
}

func (o *op) into(ctx context.Context, s *chain.Store, b *bench, done func(n, of int64)) error {
	nodes, err := s.Chain(b.path(o.Layer), b.tree.Layers[o.Layer].Format)
	if err != nil {
		return err
	}
	to, err := s.Chain(b.path(o.Base), b.tree.Layers[o.Base].Format)
	if err != nil {
		return err
	}
	into := &chain.Into{Below: to[:len(to)-1], Image: to[len(to)-1], Scan: b.dirs()}
	return s.ConvertInto(ctx, nodes, into, chain.ConvertOptions{Sparse: o.Sparse}, func(n int64) { done(n, b.was[o.Layer].Size) })
}

// narrow refcounts may not be able to count one snapshot more.
var narrow = regexp.MustCompile(`refcount_bits=[12](,|$)`)

// pickSnapshot chooses what is done to which snapshot; a crash there leaves flags that
// qemu-img takes for corruption, which the tests of the format look at.
func (o *op) pickSnapshot(rng *rand.Rand, b *bench) bool {
	o.Stop, o.Die = -1, -1
	l := b.tree.Layers[o.Layer]
	if l.Format != "qcow2" || l.Options == "" || narrow.MatchString(l.Options) || o.Kind == "revert" && len(b.tree.Children(o.Layer)) > 0 {
		return false
	}
	if o.Kind == "take" {
		o.Snap = fmt.Sprintf("n%d", b.round)
		return true
	}
	var known []string
	for _, name := range slices.Sorted(maps.Keys(b.snaps)) {
		if snap, ok := strings.CutPrefix(name, l.Name+"@"); ok && b.snaps[name] != nil {
			known = append(known, snap)
		}
	}
	if len(known) == 0 {
		return false
	}
	o.Snap = known[rng.IntN(len(known))]
	return true
}

// snapped is what the image has afterwards.
func (o *op) snapped(b *bench, s *state) {
	name := b.tree.Layers[o.Layer].Name
	switch o.Kind {
	case "take":
		s.snaps = map[string]*images.Content{name + "@" + o.Snap: b.was[o.Layer]}
	case "revert":
		s.disks[name] = b.snaps[name+"@"+o.Snap]
	}
}

func (o *op) changeSnapshots(fs vfs.FS, b *bench) error {
	f, err := fs.Open(b.path(o.Layer), true)
	if err != nil {
		return err
	}
	if err := f.Lock(vfs.LockWrite); err != nil {
		return errors.Join(err, f.Close())
	}
	m, err := qcow2.Open(f, nil)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(o.changeIn(m), m.Close())
}

func (o *op) changeIn(m *qcow2.Image) error {
	if err := m.PrepareSnapshots(); err != nil {
		return err
	}
	if o.Kind == "take" {
		return m.TakeSnapshot(o.Snap, time.Now())
	}
	list, err := m.Snapshots()
	if err != nil {
		return err
	}
	at := slices.IndexFunc(list, func(s qcow2.Snapshot) bool { return s.Name == o.Snap })
	if o.Kind == "drop" {
		return m.DeleteSnapshot(at)
	}
	return m.RevertTo(at)
}
