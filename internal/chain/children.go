package chain

import (
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Who builds on the layers of a merge.

// takeChildren takes the word of the caller, but for what the images' own headers say.
func (s *Store) takeChildren(m *Merge, paths []string) error {
	m.known = true
	for _, path := range paths {
		n, err := s.Node(path, "")
		if err != nil {
			return err
		}
		builds, err := s.buildsOn(n, m.Top().Info.ID)
		if err != nil {
			return err
		}
		if !builds {
			return refused(path, "it does not build on %s", m.Top().Path)
		}
		m.Children = append(m.Children, n)
	}
	return nil
}

// findChildren finds the images that build on the layers concerned.
func (s *Store) findChildren(m *Merge) error {
	nodes := append([]Node{m.Base}, m.Gone...)
	users, err := s.users(nodes, m.Below, dirsOf(nodes, m.Scan))
	if err != nil {
		return err
	}
	for _, u := range users {
		if u.on != m.Top().Info.ID {
			return refused(u.Path, "it builds on a layer that the merge would change, %s", nodeOf(nodes, u.on).Path)
		}
		m.Children = append(m.Children, u.Node)
	}
	return nil
}

// sameChildren sees that no image has come to build on the layers since the plan.
func (s *Store) sameChildren(m *Merge) error {
	if m.known {
		return nil
	}
	now := &Merge{Below: m.Below, Base: m.Base, Gone: m.Gone, Scan: m.Scan}
	if err := s.findChildren(now); err != nil {
		return err
	}
	for _, c := range now.Children {
		if !slices.ContainsFunc(m.Children, func(o Node) bool { return o.Info.ID == c.Info.ID }) {
			return refused(c.Path, "it has come to build on %s meanwhile; try again", m.Top().Path)
		}
	}
	return nil
}

func nodeOf(nodes []Node, id vfs.ID) Node {
	i := slices.IndexFunc(nodes, func(n Node) bool { return n.Info.ID == id })
	return nodes[i]
}
