package chain

import (
	"context"
	"math"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// RebaseBytes is what a rebase can have to copy at most: what shows through the
// image now, or would, and is not of a layer that both chains have.
func (s *Store) RebaseBytes(ctx context.Context, p *Rebase) (int64, error) {
	was, err := s.shownBytes(ctx, append(slices.Clone(p.Old), p.Image), len(p.Old), p.New)
	if err != nil || len(p.New) == 0 {
		return was, err
	}
	next, err := s.shownBytes(ctx, p.New, len(p.New), p.Old)
	return min(was+next, p.Image.Image.VirtualSize), err
}

// shownBytes counts the data that is in the lowest n of nodes, without those in except.
func (s *Store) shownBytes(ctx context.Context, nodes []Node, n int, except []Node) (bytes int64, err error) {
	err = s.Map(ctx, nodes, 0, math.MaxInt64, func(m Mapping) error {
		layer := len(nodes) - 1 - m.Depth
		if m.Data && layer < n && !hasID(except, nodes[layer].Info.ID) {
			bytes += m.Length
		}
		return nil
	})
	return bytes, err
}

func hasID(nodes []Node, id vfs.ID) bool {
	return slices.ContainsFunc(nodes, func(n Node) bool { return n.Info.ID == id })
}
