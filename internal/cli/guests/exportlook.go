package guests

import (
	"path/filepath"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// An exportLook is what libvirt and the images said of a snapshot at one time.
type exportLook struct {
	domain   *host.Domain
	snapshot *host.Snapshot
	disks    []diskLook
}

// A diskLook is the state of one disk.
type diskLook struct {
	target string
	nodes  []chain.Node // base first
	was    []chain.Node // where the state is that the earlier export has, if it is kept
}

// look finds the layers of all disks of the snapshot.
func (x *wholeExport) look(s *session.Session) (*exportLook, error) {
	w, err := s.Rotator.Observer.Observe(x.Ctx())
	if err != nil {
		return nil, err
	}
	d, snapshot, err := w.Named(x.Arg(0), x.Arg(1), x.Clock())
	if err != nil {
		return nil, term.Usagef("%w", err)
	}
	l := &exportLook{domain: d, snapshot: snapshot}
	states, err := intactLayers(w, d, snapshot, nil)
	if err != nil {
		return nil, err
	}
	earlier := x.earlier(w, d)
	for i := range states {
		disk, err := x.diskLook(&states[i], earlier)
		if err != nil {
			return nil, err
		}
		l.disks = append(l.disks, disk)
	}
	return l, nil
}

// earlier finds the states of the snapshot that the earlier export was made of, if it is there
// still: merges have moved its layers since, and kept its states.
func (x *wholeExport) earlier(w *observe.World, d *host.Domain) []host.StateLayer {
	if x.base == nil {
		return nil
	}
	s := d.Snapshot(x.base.Snapshot.Name)
	if s == nil || !s.Time.Equal(x.base.Snapshot.Time) {
		return nil
	}
	states, err := intactLayers(w, d, s, nil)
	if err != nil {
		return nil
	}
	return states
}

func (x *wholeExport) diskLook(state *host.StateLayer, earlier []host.StateLayer) (d diskLook, err error) {
	d.target = state.Target
	if d.nodes, err = x.nodesOf(state); err != nil {
		return d, err
	}
	i := slices.IndexFunc(earlier, func(e host.StateLayer) bool { return e.Target == state.Target })
	if i >= 0 {
		d.was, err = x.nodesOf(&earlier[i])
	}
	return d, err
}

// nodesOf are the layers of a state, all of which can be read.
func (x *wholeExport) nodesOf(state *host.StateLayer) ([]chain.Node, error) {
	for _, path := range append(slices.Clone(state.Chain), state.Path) {
		x.Store.Named = append(x.Store.Named, path)
		if dir := filepath.Dir(path); !slices.Contains(x.Store.Allow, dir) {
			x.Store.Allow = append(x.Store.Allow, dir)
		}
	}
	return x.Readable(state.Path, state.Format)
}

// nodes are all layers, each once.
func (l *exportLook) nodes() (all []chain.Node) {
	for _, d := range l.disks {
		for _, n := range slices.Concat(d.nodes, d.was) {
			if !slices.ContainsFunc(all, func(o chain.Node) bool { return o.Info.ID == n.Info.ID }) {
				all = append(all, n)
			}
		}
	}
	return all
}

// same tells whether a later look saw the same snapshot in the same layers.
func (l *exportLook) same(later *exportLook) bool {
	return l.domain.UUID == later.domain.UUID && l.snapshot.Name == later.snapshot.Name && l.snapshot.Time.Equal(later.snapshot.Time) &&
		slices.EqualFunc(l.disks, later.disks, func(a, b diskLook) bool {
			return a.target == b.target && sameNodes(a.nodes, b.nodes) && sameNodes(a.was, b.was)
		})
}

func sameNodes(a, b []chain.Node) bool {
	return slices.EqualFunc(a, b, func(m, n chain.Node) bool { return m.Info.ID == n.Info.ID && m.Image == n.Image })
}
