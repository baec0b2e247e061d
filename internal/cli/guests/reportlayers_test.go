package guests

import (
	"fmt"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/page"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// chainOf adds a chain to the forest, base first.
func chainOf(f *chain.Forest, paths ...string) (layers []host.Layer) {
	var below *chain.Layer
	for _, path := range paths {
		l := f.Add(path, path)
		if below != nil {
			_ = f.Link(l, below)
		}
		below, layers = l, append(layers, host.Layer{Path: path, Format: "qcow2", Allocated: int64(len(path))})
	}
	return layers
}

// A guest on a base that many share, which went back once, has a CD, and of whose images one is not needed.
func TestTreesOfOneGuest(t *testing.T) {
	f := chain.NewForest()
	web := host.Domain{Name: "web", Disks: []host.Disk{
		{Target: "vda", Chain: chainOf(f, "/base", "/web.free", "/web.s1", "/web.active")},
		{Target: "sda", ReadOnly: true, Chain: chainOf(f, "/cd")},
	}, Branches: []host.Disk{{Target: "vda", Branch: true, Chain: chainOf(f, "/base", "/web.free", "/web.s1", "/web.branch")}}}
	w := &observe.World{Forest: f, Domains: []host.Domain{web}, Remote: true}
	for i := range 5 {
		name := fmt.Sprintf("clone%d", i)
		w.Domains = append(w.Domains, host.Domain{Name: name, Disks: []host.Disk{{Target: "vda", Chain: chainOf(f, "/base", "/"+name, "/"+name+".active")}}})
		f.Find("/" + name + ".active").Keep(observe.DiskKeeper(name, "vda"))
	}
	f.Find("/web.active").Keep(observe.DiskKeeper("web", "vda"))
	f.Find("/web.active").Active = true
	f.Find("/web.s1").Keep(observe.SnapshotKeeper("web", "s2"))
	f.Find("/web.branch").Keep(observe.SnapshotKeeper("web", "s3"))

	var got strings.Builder
	var draw func(l *page.Layer, indent string)
	draw = func(l *page.Layer, indent string) {
		fmt.Fprintf(&got, "%s%s %s", indent, l.Path, strings.Join(l.Words(), " "))
		if l.Others > 0 {
			fmt.Fprintf(&got, " and %d others", l.Others)
		}
		fmt.Fprintf(&got, " %v %v\n", l.Snapshots, l.Users)
		for i := range l.Children {
			draw(&l.Children[i], indent+" ")
		}
	}
	trees := newForester(w).trees(&w.Domains[0])
	for i := range trees {
		draw(&trees[i], "")
	}
	want := `/base shared and 4 others [] []
 /clone0 free foreign and 1 others [] []
 /clone1 free foreign and 1 others [] []
 /clone2 free foreign and 1 others [] []
 /web.free free [] []
  /web.s1 kept shared [s2] []
   /web.branch kept branch [s3] []
   /web.active active [] [disk web/vda]
`
	if got.String() != want {
		t.Errorf("got\n%swant\n%s", got.String(), want)
	}
}
