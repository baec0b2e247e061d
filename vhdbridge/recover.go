package vhdbridge

import (
	"fmt"
	"path/filepath"

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

// Interrupted tells what Recover would do.
func (r *Repository) Interrupted() (texts []string) {
	for _, j := range r.Journals {
		switch {
		case j.Kind != "leaf":
		case r.swapped(j):
			texts = append(texts, "finish the leaf coalesce of "+j.VDI)
		default:
			texts = append(texts, "undo the leaf coalesce of "+j.VDI)
		}
	}
	return texts
}

// swapped tells whether the parent has the name of the leaf, which is gone.
func (r *Repository) swapped(j Journal) bool {
	return r.Node(j.Parent) == nil && r.oldNode(j.VDI) == nil
}

// recoverLeaf undoes the swap while the parent or the old leaf is there, and finishes
// it otherwise.
func (b *Bridge) recoverLeaf(r *Repository, j Journal) (string, error) {
	parent, old, now := r.Node(j.Parent), r.oldNode(j.VDI), r.Node(j.VDI)
	if r.swapped(j) {
		if now == nil {
			return "", fmt.Errorf("neither %s nor %s is there", j.VDI, j.Parent)
		}
		if err := b.hide(now, false); err != nil {
			return "", err
		}
		return "finished the leaf coalesce of " + j.VDI, b.dropJournal(r, j)
	}
	return "undid the leaf coalesce of " + j.VDI, b.undoLeaf(r, j, parent, old, now)
}

func (b *Bridge) undoLeaf(r *Repository, j Journal, parent, old, now *Node) error {
	if parent == nil { // it has the leaf's name already
		if now == nil {
			return fmt.Errorf("neither %s nor %s is there", j.VDI, j.Parent)
		}
		parent, now = now, nil
		if err := b.rename(parent, parent.name.with(j.Parent)); err != nil {
			return err
		}
	}
	child := now
	if old != nil {
		if child = old; now != nil {
			return fmt.Errorf("both %s and %s are there", now.Name, old.Name)
		}
		if err := b.rename(old, old.name.with(j.VDI)); err != nil {
			return err
		}
	}
	if child == nil {
		return fmt.Errorf("neither %s nor %s%s is there", j.VDI, oldPrefix, j.VDI)
	}
	if err := b.hide(child, false); err != nil {
		return err
	}
	if err := b.hide(parent, true); err != nil {
		return err
	}
	return b.dropJournal(r, j)
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
