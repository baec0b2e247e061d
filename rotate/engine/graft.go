package engine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// Graft clones the layers below the active one, links the clones to each other,
// merges among them what goes, puts an empty overlay on top, sees that each builds on
// the next, and compares the contents with those of the old layers.
func (n *Native) Graft(ctx context.Context, g Graft) error {
	first := len(g.Chain) - len(g.Next)
	b := &graftBuild{Native: n, Graft: g, first: first, store: n.storeFor(Merge{Chain: g.Chain})}
	b.store.Fills = "" // what a graft that is cut off has built is deleted
	for _, do := range []func(context.Context) error{b.clone, b.merge, b.overlay, b.linked, b.compare, b.sync} {
		if err := do(ctx); err != nil {
			return err
		}
	}
	return nil
}

// A graftBuild is the building of one graft.
type graftBuild struct {
	*Native
	Graft
	first int // place in Chain of the lowest layer that is replaced
	store *chain.Store
}

// top is the place in Next of the active layer.
func (b *graftBuild) top() int { return len(b.Next) - 1 }

// old returns the layer that Next[i] takes the place of.
func (b *graftBuild) old(i int) *host.Layer { return &b.Chain[b.first+i] }

// clone clones every layer below the active one and links the clones to each other.
func (b *graftBuild) clone(ctx context.Context) error {
	for i := range b.top() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := vfs.CloneFile(b.old(i).Path, b.Next[i]); err != nil {
			return err
		}
		if i == 0 {
			continue
		}
		if err := b.link(i, i-1); err != nil {
			return err
		}
	}
	return nil
}

// link lets the i-th clone build on the k-th.
func (b *graftBuild) link(i, k int) error {
	node, err := b.store.Node(b.Next[i], b.old(i).Format)
	if err != nil {
		return err
	}
	return b.store.Relink(b.Next[i], b.old(i).Format, chain.BackingName(node, b.Next[k]), b.old(k).Format)
}

// merge merges the clones that go into those that stay.
func (b *graftBuild) merge(ctx context.Context) error {
	for i := b.top() - 1; i > 0; i-- {
		if !b.Goes[i] {
			continue
		}
		base := i
		for b.Goes[base] {
			base--
		}
		children := []string{}
		if i+1 < b.top() {
			children = append(children, b.Next[i+1])
		}
		plan, err := b.store.PlanCommit(ctx, chain.CommitRequest{
			Top: b.Next[i], Format: b.old(i).Format, Base: b.Next[base], Unrecorded: true, Children: children,
		})
		if err == nil {
			err = b.store.CommitAnd(ctx, plan, func(int64) {}, func() error { return nil })
		}
		if err != nil {
			return err
		}
		i = base + 1 // all in between has been merged, too
	}
	return nil
}

// staying lists the places in Next of the layers below the active one that stay.
func (b *graftBuild) staying() []int {
	var all []int
	for i := range b.top() {
		if !b.Goes[i] {
			all = append(all, i)
		}
	}
	return all
}

// overlay makes the new active layer, without data and like the old one.
func (b *graftBuild) overlay(context.Context) error {
	stay := b.staying()
	below := stay[len(stay)-1]
	path, old := b.Next[b.top()], b.old(b.top())
	node, err := b.store.Node(old.Path, old.Format)
	if err != nil {
		return err
	}
	node.Path = path
	f, err := b.Store.FS.Open(path, true)
	if err != nil {
		return err
	}
	if err = f.Lock(vfs.LockWrite); err == nil {
		err = b.NewOverlay(f, old.Path, node.Image.VirtualSize, chain.BackingName(node, b.Next[below]), b.old(below).Format)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return vfs.LikeOwner(path, old.Path)
}

// linked sees that the new layers build on each other, and on nothing that is to go: the
// old ones hold the same, and comparing contents would not tell.
func (b *graftBuild) linked(context.Context) error {
	is, err := b.store.Chain(b.Next[b.top()], b.old(b.top()).Format)
	if err != nil {
		return err
	}
	want := host.Paths(b.Chain[:b.first])
	for _, i := range append(b.staying(), b.top()) {
		want = append(want, b.Next[i])
	}
	for k := 1; k < min(len(is), len(want)); k++ { // from the top: a header names what is below
		n, path := is[len(is)-1-k], want[len(want)-1-k]
		info, err := b.Store.FS.Stat(path)
		if err != nil {
			return err
		}
		if n.Info.ID != info.ID {
			return fmt.Errorf("%s builds on %s, and not on %s: the old layers are untouched", is[len(is)-k].Path, n.Path, path)
		}
	}
	if len(is) != len(want) {
		return fmt.Errorf("%s: its chain has %d layers, not %d: the old layers are untouched", b.Next[b.top()], len(is), len(want))
	}
	return nil
}

// compare sees that every state is what it was: as a whole where layers were merged,
// and layer by layer above. Extents that both share are not read unless Full is set.
func (b *graftBuild) compare(ctx context.Context) error {
	for k, i := range b.staying() {
		state := i // the highest layer whose data is in the new one
		for state+1 < b.top() && b.Goes[state+1] {
			state++
		}
		if err := b.compareState(ctx, i, state, k > 0 && state == i); err != nil {
			return err
		}
	}
	return nil
}

// compareState compares what the i-th new layer shows with what the old one of that
// state did; alone says that what is below has been compared already.
func (b *graftBuild) compareState(ctx context.Context, i, state int, alone bool) error {
	was, err := b.store.Chain(b.old(state).Path, b.old(state).Format)
	if err != nil {
		return err
	}
	is, err := b.store.Chain(b.Next[i], b.old(i).Format)
	if err != nil {
		return err
	}
	var c chain.Comparison
	switch {
	case b.Full:
		c, err = b.store.Compare(ctx, was, is, false, nil)
	case alone:
		c, _, err = b.store.CompareShared(ctx, was[len(was)-1:], is[len(is)-1:], true)
	default:
		c, _, err = b.store.CompareShared(ctx, was, is, false)
	}
	if err != nil {
		return err
	}
	if !c.Same || c.Sizes {
		return fmt.Errorf("%s: it differs from %s at byte %d of the disk: the old layers are untouched", b.Next[i], b.old(state).Path, c.Offset)
	}
	return nil
}

// sync makes the names of the files durable; their contents are.
func (b *graftBuild) sync(context.Context) error {
	var dirs []string
	for _, path := range b.Next {
		if dir := filepath.Dir(path); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	for _, dir := range dirs {
		if err := b.Store.FS.SyncDir(dir); err != nil {
			return err
		}
	}
	return nil
}
