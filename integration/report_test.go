package integration_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
	"github.com/virt-rotate/virt-rotate/internal/page"
)

// The page of a real guest has the chain that libvirt has, the snapshots, a branch after going back, a pin
// with a hostile note, and the history; looking changes nothing.
func TestAReportOfARealGuest(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1"})
	b.rotations("g1", 4)
	const note = `<img src=x onerror="alert(1)">`
	b.rotate("snapshot", "--name", "by-hand", "--pin", "--note", note, "g1").wantExit(t, 0)
	b.destroy("g1")
	b.rotate("restore", "g1", b.snapshotNames("g1")[1]).wantExit(t, 0)
	before := b.keptStates("g1")
	m := b.reported()
	g := &m.Guests[0]
	var present, branches []string
	var walk func(l *page.Layer)
	walk = func(l *page.Layer) {
		if l.Branch {
			branches = append(branches, string(l.Path))
		} else {
			present = append(present, string(l.Path))
		}
		for i := range l.Children {
			walk(&l.Children[i])
		}
	}
	for i := range g.Trees {
		walk(&g.Trees[i])
	}
	var chain []string
	for _, l := range slices.Backward(b.chain("g1", "vda")) {
		chain = append(chain, l.Path)
	}
	if !slices.Equal(present, chain) || len(branches) == 0 {
		t.Errorf("the page has %q and the branches %q; libvirt has %q", present, branches, chain)
	}
	var names []string
	for _, s := range g.Snapshots {
		names = append(names, string(s.Name))
		if s.Name == "by-hand" && (!s.Pinned || s.Note != note) {
			t.Errorf("%+v", s)
		}
	}
	if want := b.snapshotNames("g1"); !slices.Equal(slices.Sorted(slices.Values(names)), slices.Sorted(slices.Values(want))) || len(g.History) < 4 {
		t.Errorf("snapshots %q, want %q; %d runs", names, want, len(g.History))
	}
	file := b.path("report.html")
	b.rotate("report", "g1", "-o", file).wantExit(t, 0)
	text, err := os.ReadFile(file)
	must(t, err)
	if strings.Contains(string(text), note) || !strings.Contains(string(text), "&lt;img src=x onerror=&#34;alert(1)&#34;&gt;") {
		t.Error("the note is not escaped, or not told")
	}
	b.wantKept("g1", before, b.snapshotNames("g1")...)
}

// reported is what a page of the host shows.
func (b *bed) reported() *page.Model {
	b.t.Helper()
	var m page.Model
	b.rotate("report", "--output=json").wantExit(b.t, 0).decode(b.t, &m)
	if len(m.Guests) != 1 {
		b.t.Fatalf("%+v", m)
	}
	return &m
}
