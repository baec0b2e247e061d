package chain

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// grow makes a forest of "child<parent" pairs; "!" marks an active layer and
// "a=who" a keeper: "base a<base b<a! base=S1".
func grow(t *testing.T, text string) *Forest {
	t.Helper()
	f := NewForest()
	for _, word := range strings.Fields(text) {
		name, active := strings.CutSuffix(word, "!")
		if key, who, ok := strings.Cut(name, "="); ok {
			f.Add(key, "/"+key).Keep(who)
			continue
		}
		child, parent, linked := strings.Cut(name, "<")
		l := f.Add(child, "/"+child)
		l.Active = active
		if linked {
			if err := f.Link(l, f.Add(parent, "/"+parent)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return f
}

func TestTheThreeRules(t *testing.T) {
	cases := []struct {
		forest string
		want   string // layer:rule …
	}{
		{"base", "base:garbage"},
		{"base=S1", ""},
		{"base a<base b<a! b=disk", "base:coalesceable b:leaf"},
		{"base a<base b<a! b=disk a=S2", "base:coalesceable"},
		{"base a<base b<a! b=disk base=S1 a=S2", ""},
		{"base a<base! a=disk", "a:leaf"},
		{"base a<base! a=disk base=S1", ""},
		{"base a<base b<base! a=S b=disk", ""},                   // shared
		{"base a<base b<base! b=disk", "a:garbage"},              // a leaf that nobody needs
		{"base a<base b<a c<a! b=S c=disk", "base:coalesceable"}, // shared further up
	}
	for _, c := range cases {
		if have := rules(grow(t, c.forest)); have != c.want {
			t.Errorf("%s: %q, want %q", c.forest, have, c.want)
		}
	}
}

func rules(f *Forest) string {
	var found []string
	for _, l := range f.Layers() {
		for name, holds := range map[string]bool{"garbage": l.Garbage(), "coalesceable": l.Coalesceable(), "leaf": l.LeafCoalesceable()} {
			if holds {
				found = append(found, l.Key+":"+name)
			}
		}
	}
	return strings.Join(found, " ")
}

func TestALayerHasOneParent(t *testing.T) {
	f := grow(t, "base a<base other")
	if err := f.Link(f.Find("a"), f.Find("base")); err != nil || len(f.Find("base").Children) != 1 {
		t.Errorf("the same link again: %v, %d children", err, len(f.Find("base").Children))
	}
	err := f.Link(f.Find("a"), f.Find("other"))
	if err == nil || !strings.Contains(err.Error(), "/base") || !strings.Contains(err.Error(), "/other") {
		t.Errorf("a second parent: %v", err)
	}
	if f.Find("a").Parent != f.Find("base") || len(f.Find("other").Children) != 0 {
		t.Error("a refused link changed the forest")
	}
}

func TestALoopIsRefused(t *testing.T) {
	f := grow(t, "base a<base b<a")
	for _, child := range []string{"base", "a", "b"} {
		l := f.Find(child)
		was := l.Parent
		l.Parent = nil
		if err := f.Link(l, f.Find("b")); child != "b" && (err == nil || !strings.Contains(err.Error(), "loop")) {
			t.Errorf("%s on b: %v", child, err)
		} else if child == "b" && err == nil {
			t.Error("a layer is its own backing image")
		}
		l.Parent = was
	}
}

func TestALayerIsKnownByItsKey(t *testing.T) {
	f := NewForest()
	a := f.Add("8:1", "/first/name")
	if b := f.Add("8:1", "/other/name"); b != a || b.Path != "/first/name" || len(f.Layers()) != 1 {
		t.Errorf("two paths, one image: %+v", b)
	}
}

func TestKeepersCountOnce(t *testing.T) {
	l := &Layer{}
	l.Keep("S")
	l.Keep("S")
	l.Keep("disk")
	l.Release("S")
	l.Release("nobody")
	if !slices.Equal(l.Keepers, []string{"disk"}) {
		t.Errorf("%v", l.Keepers)
	}
	if l.Release("disk"); l.Kept() {
		t.Error("kept by nobody")
	}
}

func TestMergeHandsEverythingDown(t *testing.T) {
	f := grow(t, "base a<base b<a! c<a a=S2 b=disk c=S3")
	f.Merge(f.Find("a"))
	base := f.Find("base")
	if f.Find("a") != nil || len(f.Layers()) != 3 || len(base.Children) != 2 || !slices.Equal(base.Keepers, []string{"S2"}) || base.Active {
		t.Errorf("%+v", base)
	}
	f = grow(t, "base a<base! a=disk")
	f.Merge(f.Find("a"))
	if base := f.Find("base"); !base.Active || !slices.Equal(base.Keepers, []string{"disk"}) || len(base.Children) != 0 {
		t.Errorf("active commit: %+v", base)
	}
}

func TestRemoveTakesALeafOut(t *testing.T) {
	f := grow(t, "base a<base b<base")
	f.Remove(f.Find("a"))
	f.Remove(f.Add("lone", "/lone"))
	if f.Find("a") != nil || f.Find("lone") != nil || len(f.Find("base").Children) != 1 || len(f.Roots()) != 1 {
		t.Errorf("%+v", f.Layers())
	}
}

func TestTreesHoldsWholeTreesAndNothingElse(t *testing.T) {
	f := grow(t, "base a<base b<base far x<far a=S")
	c := f.Trees("b", "unknown", "b")
	if c.Find("a") == nil || c.Find("base") == nil || c.Find("far") != nil || len(c.Layers()) != 3 {
		t.Errorf("%v", c.Layers())
	}
	c.Find("a").Keep("else")
	c.Merge(c.Find("a"))
	if len(f.Find("a").Keepers) != 1 || len(f.Find("base").Children) != 2 || f.Find("base").Kept() {
		t.Error("a change of the copy shows in the original")
	}
}

// Whatever is linked, merged and removed: children and parents agree, nothing
// is lost, and a clone is equal and independent.
func TestRandomForestsStayForests(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 0))
		f := NewForest()
		keepers := 0
		for i := range 1 + rng.IntN(20) {
			l := f.Add(fmt.Sprint(i), fmt.Sprint("/", i))
			if rng.IntN(2) == 0 {
				l.Keep(fmt.Sprint("S", i))
				keepers++
			}
			_ = f.Link(l, f.Find(fmt.Sprint(rng.IntN(i+1)))) // itself: refused
		}
		for range rng.IntN(10) {
			l := f.Layers()[rng.IntN(len(f.Layers()))]
			if l.Parent != nil {
				f.Merge(l)
			}
		}
		checkForest(t, f, keepers)
		before := rules(f)
		c := f.Clone()
		checkForest(t, c, keepers)
		for _, l := range c.Layers() {
			l.Keepers, l.Active = nil, true
		}
		if rules(f) != before {
			t.Fatalf("seed %d: a change of the clone shows in the original", seed)
		}
	}
}

func checkForest(t *testing.T, f *Forest, keepers int) {
	t.Helper()
	have := 0
	for _, l := range f.Layers() {
		have += len(l.Keepers)
		if l.Parent != nil && !slices.Contains(l.Parent.Children, l) || f.Find(l.Key) != l {
			t.Fatalf("%s is not its parent's child, or not found", l.Key)
		}
		for _, c := range l.Children {
			if c.Parent != l || f.Find(c.Key) != c {
				t.Fatalf("%s is not %s's child", c.Key, l.Key)
			}
		}
		steps := 0
		for p := l; p != nil; p = p.Parent {
			if steps++; steps > len(f.Layers()) {
				t.Fatalf("%s is in a loop", l.Key)
			}
		}
	}
	if have != keepers {
		t.Fatalf("%d keepers, want %d", have, keepers)
	}
}
