package vhdbridge

import (
	"context"
	"errors"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// Rehearse opens all that a plan would change, and takes the trees out of it in which a
// step would be refused: what is left is what Run does. It changes nothing. The error is
// that of the context.
func (b *Bridge) Rehearse(ctx context.Context, r *Repository, p *Plan) error {
	refused := map[string]bool{}
	for _, s := range p.Steps {
		if refused[s.tree] {
			continue
		}
		err := b.rehearse(ctx, r, s)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			refused[s.tree] = true
			p.Spoiled = append(p.Spoiled, Spoiled{Node: s.Nodes[len(s.Nodes)-1], Reason: err.Error()})
		}
	}
	p.Steps = slices.DeleteFunc(p.Steps, func(s Step) bool { return refused[s.tree] })
	return nil
}

func (b *Bridge) rehearse(ctx context.Context, r *Repository, s Step) error {
	switch s.Op {
	case OpDelete:
		return b.removable(r, s.Nodes[0])
	case OpRelink:
		return errors.Join(b.removable(r, s.Nodes[0]), b.covered(ctx, r.Node(s.Into), r.Node(s.Nodes[0])))
	}
	_, err := b.plan(ctx, r, s, chain.CommitRequest{Children: b.childPaths(r, s), Unmeasured: true})
	for _, name := range s.Nodes {
		err = errors.Join(err, b.removable(r, name))
	}
	return err
}

// removable refuses a node that is not any more the file that was scanned, or that could
// not be removed.
func (b *Bridge) removable(r *Repository, name string) error {
	n := r.Node(name)
	info, err := b.Store.FS.Lstat(n.Path)
	switch {
	case err != nil:
		return err
	case info.IsBlock:
		return &chain.RefusedError{Path: n.Path, Reason: DeviceReason}
	case info.ID != n.id:
		return &chain.RefusedError{Path: n.Path, Reason: "it has become another file"}
	}
	return nil
}

// childPaths are those of the images on the highest node of the step.
func (b *Bridge) childPaths(r *Repository, s Step) []string {
	paths := []string{}
	for _, name := range s.children {
		paths = append(paths, r.Node(name).Path)
	}
	return paths
}
