package page

import (
	"fmt"
	"time"
)

// noon is when the samples were looked at.
func noon() time.Time {
	return time.Date(2026, 11, 22, 12, 0, 0, 0, time.FixedZone("CET", 3600))
}

func ago(d time.Duration) *time.Time {
	t := noon().Add(-d)
	return &t
}

const day = 24 * time.Hour

// Hostile texts, as a guest or a file may be called.
const (
	script = "<script>alert(1)</script>"
	quotes = `"' onmouseover="alert(1)" x='`
	bidi   = "safe\u202Egpj.exe\u0007\n"
)

// sample has one guest of each kind of trouble, and one with a shared base, a branch and a pin.
func sample() *Model {
	web := chained("web", 6)
	web.Level, web.Findings = Warning, []Finding{{Level: Warning, Code: "low-space", Detail: "3.0 GiB are free on its storage, min_free = 10% keeps 10.0 GiB"}}
	web.Free, web.MinFree = 3<<30, 10<<30
	base := &web.Trees[0]
	base.Shared = true
	base.Users = []Text{"disk db/vda"}
	base.Children = append([]Layer{{Path: "/srv/images/db.qcow2", Format: "qcow2", Allocated: 2 << 30, Mark: Active, Foreign: true, Users: []Text{"disk db/vda"}}}, base.Children...)
	at := &base.Children[1].Children[0]
	at.Children = append([]Layer{{Path: "/var/lib/libvirt/images/web.before-upgrade.qcow2", Format: "qcow2", Allocated: 700 << 20, Mark: Kept, Branch: true,
		Snapshots: []Text{"before-upgrade"}, Notes: []Text{"before-upgrade: pinned, " + script}, Children: []Layer{}}}, at.Children...)
	web.Jobs = []Job{{Disk: "vda", Type: "commit", Done: 300 << 20, Size: 1 << 30}}
	web.Snapshots[1].Pinned, web.Snapshots[1].Reasons, web.Snapshots[1].Note = true, []Text{"pinned"}, Text(quotes)
	web.Snapshots[2].Keep, web.Snapshots[2].Reasons = false, []Text{"no rule keeps it"}
	web.Plan.Refused = []Finding{{Code: "no-space", Path: "/var/lib/libvirt/images", Detail: "the overlay of vda may need 2.0 GiB", Remedy: "make room there"}}

	odd := Guest{Name: script, UUID: "u2", Policy: Text(quotes), State: "shut off", Level: Critical, Free: -1,
		Findings: []Finding{{Level: Critical, Code: "unreadable", Path: Text("/srv/" + bidi), Detail: script, Since: ago(3 * day), Remedy: Text(quotes)}},
		LastRun:  &Run{Time: *ago(2 * time.Hour), Result: "refused", Error: script, Refused: []Finding{{Code: "unreadable", Path: Text(bidi), Detail: script}}},
		Trees:    []Layer{{Path: Text("/srv/" + script + "/" + bidi + quotes), Mark: Active, Users: []Text{script}, Notes: []Text{Text(quotes)}, Why: script, Wrong: true, Label: script}},
		Snapshots: []Snapshot{{Name: script, Time: *ago(-day), Reasons: []Text{Text(quotes)}, Note: Text(bidi), Keep: true},
			{Name: "lost", Time: *ago(5 * day), Lost: true, Keep: true, Reasons: []Text{"a guest writes to it"}}},
		Plan: Plan{Result: "refused", Steps: []Step{{Op: "merge", Text: script, Reason: Text(quotes)}}, Warnings: []Text{script}}}
	db := chained("db", 3)
	return &Model{Host: Text("kvm1 " + bidi), Time: noon(), Program: "virt-rotate 0.9", Level: Critical, Summary: "2 of 3 guests not well protected: " + script,
		Notes: []Text{"history: " + script}, Guests: []Guest{odd, web, db}}
}

// chained is a guest that is well, with so many layers.
func chained(name string, layers int) Guest {
	g := Guest{Name: Text(name), UUID: Text("uuid of " + name), Policy: "nightly", State: "running", Level: OK, Findings: []Finding{}, Newest: ago(3 * time.Hour), Due: ago(-21 * time.Hour),
		Layers: layers, MaxChain: 40, Free: 200 << 30, MinFree: 20 << 30,
		LastRun: &Run{Time: *ago(3 * time.Hour), Result: "done"}, LastSuccess: ago(3 * time.Hour),
		Plan: Plan{Result: "nothing to do", Steps: []Step{{Op: "snapshot", Text: "vda: x on y", Reason: "the newest is 24 h old"}}}}
	dir := "/var/lib/libvirt/images/"
	root := Layer{Path: Text(dir + name + ".qcow2"), Format: "qcow2", VirtualSize: 40 << 30, Allocated: 8 << 30, Mark: Kept, Children: []Layer{}}
	at := &root
	for i := range layers - 1 {
		when := noon().Add(-time.Duration(layers-1-i)*day + 21*time.Hour)
		snap := when.UTC().Format("nightly-20060102T150405Z")
		at.Snapshots = []Text{Text(snap)}
		at.Children = []Layer{{Path: Text(dir + name + "." + snap + ".qcow2"), Format: "qcow2", VirtualSize: 40 << 30, Allocated: int64(i*i%7+1) << 28, Mark: Kept, Children: []Layer{}}}
		at = &at.Children[0]
		g.Snapshots = append(g.Snapshots, Snapshot{Name: Text(snap), Time: when, Ours: true, Keep: true, Reasons: []Text{Text(fmt.Sprintf("last %d of %d", layers-1-i, layers)), Text("daily " + when.Format("2006-01-02"))}})
		g.Allocated += at.Allocated
	}
	at.Mark = Active
	g.Trees = []Layer{root}
	for i := range 30 {
		g.History = append(g.History, Point{Time: noon().Add(-time.Duration(30-i) * day), Result: "done", Allocated: int64(8+i%5) << 30, Layers: 3 + i%4, Took: float64(20 + i*7%40), Merged: int64(i%3) << 29})
	}
	return g
}

// crowd is a host with so many guests, of so many layers each.
func crowd(guests, layers int) *Model {
	m := &Model{Host: "kvm1", Time: noon(), Program: "virt-rotate 0.9", Level: OK, Summary: Text(fmt.Sprintf("%d guests protected", guests))}
	for i := range guests {
		m.Guests = append(m.Guests, chained(fmt.Sprintf("guest-%04d", i), layers))
	}
	return m
}
