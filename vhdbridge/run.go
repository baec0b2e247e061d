package vhdbridge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A Bridge works on one repository, which nobody else has in use.
type Bridge struct {
	Store   *chain.Store // knows the formats
	Readers map[string]Reader
	// Hide sets or takes back the hidden flag of an open and locked image, durably, by
	// format. Raw disks have none.
	Hide map[string]func(f vfs.File, yes bool) error
	// Space is the free space of the directory's file system, bytes.
	Space func(dir string) (int64, error)
	// Report tells what is done, and how far a merge is; never nil.
	Report func(Event)
}

// An Event tells what a run does.
type Event struct {
	Step        Step
	Done, Total int64 // bytes of a merge; of a step that starts, both 0
	Text        string
}

// A Failure is a step that could not be done; the rest of its tree was left alone.
type Failure struct {
	Step  Step
	Cause error
}

// Error names the node and the reason.
func (f *Failure) Error() string {
	return fmt.Sprintf("%s of %s: %v", f.Step.Op, strings.Join(f.Step.Nodes, ", "), f.Cause)
}

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Cause }

// rename gives a node another file name, durably; there must be nothing of that name.
func (b *Bridge) rename(r *Repository, n *Node, to string) error {
	path := filepath.Join(filepath.Dir(n.Path), to)
	if _, err := b.Store.FS.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("%s: there is a file of that name already", path), err)
	}
	if err := b.Store.FS.Rename(n.Path, path); err != nil {
		return err
	}
	n.Path, n.Name = path, to
	r.renamed()
	return nil
}

// hide sets or takes back the hidden flag, if it is not as wanted.
func (b *Bridge) hide(n *Node, yes bool) error {
	set := b.Hide[n.Format]
	if n.Hidden == yes || set == nil {
		return nil
	}
	f, err := b.Store.FS.Open(n.Path, true)
	if err != nil {
		return err
	}
	if err = f.Lock(vfs.LockWrite); err == nil {
		err = set(f, yes)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%s: hidden flag: %w", n.Path, err), f.Close())
	}
	n.Hidden = yes
	return f.Close()
}

func (b *Bridge) dropJournal(r *Repository, j Journal) error {
	path := filepath.Join(r.Dir, j.file)
	info, err := b.Store.FS.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return b.Store.FS.RemoveExact(path, info.ID)
}

// Run carries out a plan. What fails spoils its own tree only; the error is that of
// the context.
func (b *Bridge) Run(ctx context.Context, r *Repository, p *Plan) (done []Step, failed []Failure, err error) {
	spoiled := map[string]bool{}
	for _, s := range p.Steps {
		if ctx.Err() != nil {
			return done, failed, ctx.Err()
		}
		if spoiled[s.tree] {
			continue
		}
		b.Report(Event{Step: s})
		if err := b.step(ctx, r, s); err != nil {
			spoiled[s.tree] = true
			failed = append(failed, Failure{s, err})
			continue
		}
		done = append(done, s)
	}
	return done, failed, b.tidy(r)
}

func (b *Bridge) step(ctx context.Context, r *Repository, s Step) error {
	if err := b.fits(r, s); err != nil {
		return err
	}
	switch s.Op {
	case OpDelete:
		return b.remove(r, s.Nodes[0])
	case OpRelink:
		return b.relink(ctx, r, s)
	case OpMerge:
		return b.merge(ctx, r, s)
	default:
		return b.mergeLeaf(ctx, r, s)
	}
}

// fits refuses a step for which there is no room, with the figures.
func (b *Bridge) fits(r *Repository, s Step) error {
	if s.Space == 0 {
		return nil
	}
	free, err := b.Space(r.Dir)
	if err != nil {
		return err
	}
	if free < s.Space {
		return &chain.RefusedError{Path: filepath.Join(r.Dir, s.Into), Reason: fmt.Sprintf(
			"merging %s into it can need %d bytes, and %d are free", strings.Join(s.Nodes, ", "), s.Space, free)}
	}
	return nil
}

// remove deletes the node, if it is the one that was scanned.
func (b *Bridge) remove(r *Repository, name string) error {
	n := r.Node(name)
	if n.Device {
		return &chain.RefusedError{Path: n.Path, Reason: DeviceReason}
	}
	return b.Store.FS.RemoveExact(n.Path, n.id)
}

// merge brings a run of nodes into the one below, in one pass.
func (b *Bridge) merge(ctx context.Context, r *Repository, s Step) error {
	top := r.Node(s.Nodes[len(s.Nodes)-1])
	m, err := b.plan(ctx, r, s, chain.CommitRequest{Children: b.childPaths(r, s), Record: func() error { return b.recordMerged(r, s) }})
	if err != nil {
		return err
	}
	if err := b.Store.Commit(ctx, m, b.progress(s, m.Bytes)); err != nil {
		return err
	}
	for _, name := range slices.Backward(s.Nodes) {
		if err := b.remove(r, name); err != nil {
			return err
		}
	}
	b.carry(r, r.Node(s.Into), top)
	return nil
}

// plan completes the request for the nodes of the step.
func (b *Bridge) plan(ctx context.Context, r *Repository, s Step, c chain.CommitRequest) (*chain.Merge, error) {
	base, top := r.Node(s.Into), r.Node(s.Nodes[len(s.Nodes)-1])
	if base.Device {
		return nil, &chain.RefusedError{Path: base.Path, Reason: DeviceReason}
	}
	c.Top, c.Format, c.Base, c.Unrecorded = top.Path, top.Format, base.Path, true
	return b.Store.PlanCommit(ctx, c)
}

func (b *Bridge) progress(s Step, total int64) func(int64) {
	done := int64(0)
	return func(n int64) {
		done += n
		b.Report(Event{Step: s, Done: done, Total: total})
	}
}

// carry notes what the base is after a merge, for the steps that follow.
func (b *Bridge) carry(r *Repository, base, top *Node) {
	base.VirtualSize = max(base.VirtualSize, top.VirtualSize)
	for _, n := range r.Nodes {
		if n.Parent == top.Name {
			n.Parent = base.Name
		}
	}
}

// recordMerged writes the collector's own journal: the data is moved, what is left
// is to relink the children.
func (b *Bridge) recordMerged(r *Repository, s Step) error {
	for _, name := range s.Nodes {
		path := filepath.Join(r.Dir, "relink_"+r.Node(name).VDI)
		if err := b.Store.FS.WriteFile(path, []byte("1"), 0o600); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		r.Journals = append(r.Journals, Journal{Kind: "relink", VDI: r.Node(name).VDI, file: filepath.Base(path)})
	}
	return nil
}

// relink finishes a merge whose data is moved: the children build on the base, the
// node goes.
func (b *Bridge) relink(ctx context.Context, r *Repository, s Step) error {
	base, gone := r.Node(s.Into), r.Node(s.Nodes[0])
	if err := b.covered(ctx, base, gone); err != nil {
		return err
	}
	for _, name := range s.children {
		c := r.Node(name)
		n, err := b.Store.Node(c.Path, c.Format)
		if err == nil {
			err = b.Store.Relink(c.Path, c.Format, chain.BackingName(n, base.Path), base.Format)
		}
		if err != nil {
			return err
		}
	}
	if err := b.remove(r, gone.Name); err != nil {
		return err
	}
	b.carry(r, base, gone)
	return nil
}

// covered refuses a journal that cannot be true: the base has holes where the node
// that was merged into it has data.
func (b *Bridge) covered(ctx context.Context, base, gone *Node) error {
	lower, err := b.Store.Node(base.Path, base.Format)
	if err != nil {
		return err
	}
	upper, err := b.Store.Node(gone.Path, gone.Format)
	if err != nil {
		return err
	}
	all, err := b.Store.Covers(ctx, lower, upper)
	if err == nil && !all {
		err = &chain.RefusedError{Path: gone.Path, Reason: "its journal says that " + base.Name + " has all of its data, which is not so; if nobody knows of that journal, delete it"}
	}
	return err
}

// mergeLeaf merges a leaf into its parent and lets that take its name, in the
// collector's order and under its journal.
func (b *Bridge) mergeLeaf(ctx context.Context, r *Repository, s Step) error {
	base, leaf := r.Node(s.Into), r.Node(s.Nodes[0])
	m, err := b.plan(ctx, r, s, chain.CommitRequest{Children: []string{}})
	if err != nil {
		return err
	}
	j := Journal{Kind: "leaf", VDI: leaf.VDI, Parent: base.VDI, file: "leaf_" + leaf.VDI}
	if err := b.Store.FS.WriteFile(filepath.Join(r.Dir, j.file), []byte(base.VDI), 0o600); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := b.Store.Commit(ctx, m, b.progress(s, m.Bytes)); err != nil {
		return errors.Join(err, b.dropJournal(r, j)) // the leaf is as it was
	}
	if err := b.swap(r, base, leaf); err != nil {
		return err
	}
	if err := b.Store.FS.RemoveExact(leaf.Path, leaf.id); err != nil {
		return err
	}
	return b.dropJournal(r, j)
}

// swap gives the leaf's name to its parent.
func (b *Bridge) swap(r *Repository, base, leaf *Node) error {
	vdi := leaf.VDI
	if err := b.rename(r, leaf, leaf.name.oldName()); err != nil {
		return err
	}
	if err := b.rename(r, base, base.name.with(vdi)); err != nil {
		return err
	}
	return b.hide(base, false)
}

// tidy removes the journals of merges whose node is gone.
func (b *Bridge) tidy(r *Repository) error {
	for _, j := range r.Journals {
		if j.Kind == "leaf" {
			continue
		}
		gone := true
		for _, n := range r.Nodes {
			if n.VDI != j.VDI {
				continue
			}
			if _, err := b.Store.FS.Lstat(n.Path); !errors.Is(err, fs.ErrNotExist) {
				gone = false
			}
		}
		if !gone {
			continue
		}
		if err := b.dropJournal(r, j); err != nil {
			return err
		}
	}
	return nil
}
