package guests

import (
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/page"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// A forester draws the trees of one guest after the other.
type forester struct {
	w     *observe.World
	facts map[string]host.Layer // by key
	notes map[string]string     // by keeper, what people said of snapshots
}

// newForester knows the layers of the world; w may be nil.
func newForester(w *observe.World) *forester {
	f := &forester{w, map[string]host.Layer{}, map[string]string{}}
	if w == nil {
		return f
	}
	for i := range w.Domains {
		d := &w.Domains[i]
		for _, disks := range [][]host.Disk{d.Branches, d.Disks} {
			for j := range disks {
				for _, l := range disks[j].Chain {
					f.facts[l.Key()] = l
				}
			}
		}
		for j := range d.Snapshots {
			s := &d.Snapshots[j]
			if text := noteOf(w, s); text != "" {
				f.notes[observe.SnapshotKeeper(d.Name, s.Name)] = s.Name + ": " + text
			}
		}
	}
	return f
}

// A plot is the part of the forest that is one guest's.
type plot struct {
	*forester
	d       *host.Domain
	own     map[*chain.Layer]bool // and all below these
	current map[string]bool       // keys of the layers in its disks' chains
}

// trees are those that the guest's layers stand in. Of others' layers only those that build on
// one of the guest's are drawn, and few of these.
func (f *forester) trees(d *host.Domain) []page.Layer {
	p := &plot{f, d, map[*chain.Layer]bool{}, map[string]bool{}}
	var roots []*chain.Layer
	for _, l := range p.layers() {
		for ; l.Parent != nil; l = l.Parent {
			p.own[l] = true
		}
		p.own[l] = true
		if !slices.Contains(roots, l) {
			roots = append(roots, l)
		}
	}
	trees := []page.Layer{}
	for _, r := range roots {
		trees = append(trees, p.layer(r))
	}
	return trees
}

// layers are the guest's, those of its disks first.
func (p *plot) layers() []*chain.Layer {
	var all []*chain.Layer
	take := func(l *chain.Layer) {
		if l != nil {
			all = append(all, l)
		}
	}
	for i := range p.d.Disks {
		if p.d.Disks[i].ReadOnly { // nobody writes to it, and no snapshot has it
			continue
		}
		for j := range p.d.Disks[i].Chain {
			key := p.d.Disks[i].Chain[j].Key()
			p.current[key] = true
			take(p.w.Forest.Find(key))
		}
	}
	for i := range p.d.Branches {
		for j := range p.d.Branches[i].Chain {
			take(p.w.Forest.Find(p.d.Branches[i].Chain[j].Key()))
		}
	}
	for i := range p.d.Snapshots {
		for k := range p.d.Snapshots[i].Disks {
			if path := host.StateOf(p.d, &p.d.Snapshots[i].Disks[k]); path != "" {
				take(p.w.Forest.Find(p.w.KeyOf(p.d, path)))
			}
		}
	}
	return all
}

// layer draws one of the guest's with what builds on it: others' first, then branches, and what the
// guest writes to goes on straight.
func (p *plot) layer(l *chain.Layer) page.Layer {
	n := p.node(l)
	n.Branch = !p.current[l.Key]
	for _, c := range l.Children {
		switch {
		case p.own[c]:
		case len(n.Children) < mostForeign:
			foreign := p.node(c)
			foreign.Foreign, foreign.Others = true, descendants(c)
			n.Children = append(n.Children, foreign)
		default:
			n.Others += 1 + descendants(c)
		}
	}
	for _, present := range []bool{false, true} {
		for _, c := range l.Children {
			if p.own[c] && p.current[c.Key] == present {
				n.Children = append(n.Children, p.layer(c))
			}
		}
	}
	return n
}

// mostForeign is how many layers of others on one of the guest's are drawn.
const mostForeign = 3

func descendants(l *chain.Layer) int {
	n := len(l.Children)
	for _, c := range l.Children {
		n += descendants(c)
	}
	return n
}

// node is the layer without what builds on it.
func (p *plot) node(l *chain.Layer) page.Layer {
	n := page.Layer{Path: page.Text(l.Path), Mark: pageMark(l), Shared: len(l.Children) > 1, Snapshots: []page.Text{}, Users: []page.Text{}, Children: []page.Layer{}}
	switch f, ok := p.facts[l.Key]; {
	case ok:
		n.Format, n.VirtualSize, n.Allocated = page.Text(f.Format), f.Size, f.Allocated
	case !p.w.Remote:
		if info, err := vfs.Stat(l.Path); err == nil {
			n.Allocated = info.Allocated
		}
	}
	own := observe.SnapshotKeeper(p.d.Name, "")
	for _, who := range l.Keepers {
		if note := p.notes[who]; note != "" {
			n.Notes = append(n.Notes, page.Text(note))
		}
		if name, ours := strings.CutPrefix(who, own); ours {
			n.Snapshots = append(n.Snapshots, page.Text(name))
			continue
		}
		n.Users = append(n.Users, page.Text(who))
		n.Shared = n.Shared || !strings.Contains(who, " "+p.d.Name+"/")
	}
	if s := p.d.SinceWentBack(l.Path); s != nil && l.Active {
		n.Since = page.Text(p.d.Name + " went back to " + s.Name)
	}
	switch n.Mark {
	case page.Merges:
		n.Why = "nobody needs its content by itself: it can be merged with the layer on it"
	case page.Gone:
		n.Why = "nobody and nothing needs it"
	}
	return n
}

func pageMark(l *chain.Layer) page.Mark {
	switch markOf(l) {
	case "active":
		return page.Active
	case "kept":
		return page.Kept
	case "garbage":
		return page.Gone
	case "coalesceable":
		return page.Merges
	}
	return page.Passed
}
