package rotate

import (
	"slices"
	"testing"
)

// missed lets libvirt miss the end of a merge of ours: the images are merged,
// the XML has the old chain.
func missed(t *testing.T) (*simHost, *simDomain, *Rotator) {
	t.Helper()
	h := newSim(t)
	web := h.add("web")
	one(9, 10, 11)(h, web)
	old := slices.Clone(web.Disks[0].Chain)
	r := h.rotator(rule(2))
	r.Options = coalesce()
	if !dieAt(h, r, "block of merge") {
		t.Fatal("no merge")
	}
	h.afterCrash(jobsFinish)
	web.Disks[0].Chain, web.Disks[0].Inactive = old, paths(old)
	return h, web, r
}

func TestAMergeWhoseEndLibvirtMissedIsMendedWhenTheGuestIsOff(t *testing.T) {
	h, web, r := missed(t)
	web.State = ShutOff
	if p := h.plan(t, r, "web"); len(p.Steps) != 1 || p.Steps[0].Op != OpRedefine || p.Steps[0].Disk != "vda" {
		t.Errorf("%+v", p)
	}
	p := h.runAll(t, r)["web"]
	if p.Result != ResultDone {
		t.Errorf("%+v", p)
	}
	h.checkDone(t)
	web.State = Running
	if p := h.runAll(t, r)["web"]; len(p.Steps) > 0 || len(p.Refused) > 0 {
		t.Errorf("%+v", p)
	}
}

func TestAMergeWhoseEndLibvirtMissedWaitsForARestartOfTheGuest(t *testing.T) {
	h, web, r := missed(t)
	for range 2 {
		p := h.runAll(t, r)["web"]
		if len(p.Refused) != 1 || p.Refused[0].Code != CodeRestart {
			t.Fatalf("%+v", p)
		}
	}
	if len(web.Disks[0].Inactive) != 3 {
		t.Errorf("persistent configuration: %q", web.Disks[0].Inactive)
	}
	for i, path := range web.Disks[0].Inactive { // it starts afresh
		web.Disks[0].Chain[i].Path = path
	}
	web.Disks[0].Chain = web.Disks[0].Chain[:3]
	if p := h.runAll(t, r)["web"]; p.Result != ResultDone {
		t.Errorf("%+v", p)
	}
	h.checkDone(t)
}

func TestAPivotThatLibvirtMissedIsSeenByTheLocks(t *testing.T) {
	d := &Domain{Name: "web", UUID: "u", State: Running, Disks: []Disk{{Target: "vda", Kind: "file", Device: "disk",
		Chain: []Layer{{Path: "/b", Kind: "file"}, {Path: "/s", Kind: "file"}}}}}
	w := &World{Intents: map[string]*Intent{"u": {Merges: []intentMerge{{Disk: "vda", Base: "/b", Gone: []intentFile{{Path: "/s"}}}}}}}
	for _, c := range []struct {
		left    map[string]LeftFile
		written bool
		want    int
	}{
		{map[string]LeftFile{"/s": {InUse: false}}, true, 1},
		{map[string]LeftFile{"/s": {InUse: false}}, false, 0}, // no locks at all
		{map[string]LeftFile{"/s": {InUse: true}}, true, 0},   // a job that libvirt does not know
		{nil, true, 0},
	} {
		w.Left, w.Written = c.left, map[string]bool{"/b": c.written}
		b := &builder{w: w, d: d, disks: d.Disks}
		if chain := b.lostMerge(&w.Intents["u"].Merges[0]); len(chain) != c.want {
			t.Errorf("%+v: %v", c.left, chain)
		}
	}
}
