package vhdbridge

import (
	"fmt"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Recover finishes or undoes what the collector, or a run of this package, was
// interrupted in, as the collector itself would: a leaf that was giving its name to
// its parent. It returns in words what it did.
func (b *Bridge) Recover(r *Repository) (done []string, err error) {
	if err := b.sweep(r.Dir); err != nil {
		return nil, err
	}
	for _, j := range r.Journals {
		if j.Kind != "leaf" {
			continue
		}
		text, err := b.recoverLeaf(r, j)
		if err != nil {
			return done, fmt.Errorf("%s: %w", j.file, err)
		}
		done = append(done, text)
	}
	return done, nil
}

// Interrupted tells what Recover would do, or refuse.
func (r *Repository) Interrupted() (texts []string, err error) {
	for _, j := range r.Journals {
		if j.Kind != "leaf" {
			continue
		}
		text := "finish the leaf coalesce of " + j.VDI
		if !r.swapped(j) {
			text = "undo the leaf coalesce of " + j.VDI
			_, err = r.undoing(j)
		} else if r.Node(j.VDI) == nil {
			err = fmt.Errorf("neither %s nor %s is there", j.VDI, j.Parent)
		}
		if err != nil {
			return texts, fmt.Errorf("%s: %w", j.file, err)
		}
		texts = append(texts, text)
	}
	return texts, nil
}

// swapped tells whether the parent has the name of the leaf, which is gone.
func (r *Repository) swapped(j Journal) bool {
	return r.Node(j.Parent) == nil && r.oldNode(j.VDI) == nil
}

// recoverLeaf undoes the swap while the parent or the old leaf is there, and finishes
// it otherwise.
func (b *Bridge) recoverLeaf(r *Repository, j Journal) (string, error) {
	if r.swapped(j) {
		now := r.Node(j.VDI)
		if now == nil {
			return "", fmt.Errorf("neither %s nor %s is there", j.VDI, j.Parent)
		}
		if err := b.hide(now, false); err != nil {
			return "", err
		}
		return "finished the leaf coalesce of " + j.VDI, b.dropJournal(r, j)
	}
	u, err := r.undoing(j)
	if err != nil {
		return "", err
	}
	return "undid the leaf coalesce of " + j.VDI, b.undoLeaf(r, j, u)
}

// An undoing is how a swap of names was left.
type undoing struct {
	parent, child *Node
	swapped       bool // the parent has the leaf's name
}

// undoing finds parent and leaf of a journal, which is to be true.
func (r *Repository) undoing(j Journal) (u undoing, err error) {
	parent, old, now := r.Node(j.Parent), r.oldNode(j.VDI), r.Node(j.VDI)
	if u.swapped = parent == nil; u.swapped { // it has the leaf's name already
		parent, now = now, nil
	}
	u.parent, u.child = parent, now
	switch {
	case parent == nil:
		return u, fmt.Errorf("neither %s nor %s is there", j.VDI, j.Parent)
	case old != nil && now != nil:
		return u, fmt.Errorf("both %s and %s are there", now.Name, old.Name)
	case old != nil:
		u.child = old
	case now == nil:
		return u, fmt.Errorf("neither %s nor %s%s is there", j.VDI, oldPrefix, j.VDI)
	}
	if !u.child.builtOn(parent, j.Parent) {
		return u, &chain.RefusedError{Path: u.child.Path, Reason: "its journal says that it builds on " + j.Parent + ", which is not so; if nobody knows of that journal, delete it"}
	}
	return u, nil
}

func (b *Bridge) undoLeaf(r *Repository, j Journal, u undoing) error {
	if u.swapped {
		if err := b.rename(r, u.parent, u.parent.name.with(j.Parent)); err != nil {
			return err
		}
	}
	if u.child.name.old {
		if err := b.rename(r, u.child, u.child.name.with(j.VDI)); err != nil {
			return err
		}
	}
	if err := b.hide(u.child, false); err != nil {
		return err
	}
	if err := b.hide(u.parent, true); err != nil {
		return err
	}
	return b.dropJournal(r, j)
}

// builtOn tells whether n builds on p, which has or had the name of that VDI.
func (n *Node) builtOn(p *Node, vdi string) bool {
	return n.layer.Parent == p.layer || n.Parent == p.name.with(vdi)
}

func (r *Repository) oldNode(vdi string) *Node {
	for _, n := range r.Nodes {
		if n.name.old && n.VDI == vdi {
			return n
		}
	}
	return nil
}

// sweep removes what a run that was killed left half written. Nobody else works on
// the repository.
func (b *Bridge) sweep(dir string) error {
	names, err := b.Store.FS.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if stale, _ := filepath.Match(vfs.TempPattern, name); !stale {
			continue
		}
		path := filepath.Join(dir, name)
		info, err := b.Store.FS.Lstat(path)
		if err == nil {
			err = b.Store.FS.RemoveExact(path, info.ID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
