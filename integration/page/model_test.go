//go:build page

package page_test

import (
	"fmt"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/page"
)

const day = 24 * time.Hour

func noon() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) }

// chained is a guest with so many layers, of so many MiB each, that keeps the last ones and weeks.
func chained(name, dir string, layers int, mib int64) page.Guest {
	newest, due := noon().Add(-8*time.Hour-26*time.Minute), noon().Add(15*time.Hour+34*time.Minute)
	g := page.Guest{Name: page.Text(name), UUID: page.Text(name), Policy: "nightly", State: "running", Level: page.OK, Newest: &newest, Due: &due, LastSuccess: &newest,
		Layers: layers, MaxChain: 30, Free: 212 << 30, MinFree: 50 << 30, LastRun: &page.Run{Time: newest, Result: "done"}, Plan: page.Plan{Result: "nothing to do"}}
	root := page.Layer{Path: page.Text(dir + name + ".qcow2"), Format: "qcow2", VirtualSize: 40 << 30, Allocated: mib * 11 << 20, Mark: page.Kept}
	at := &root
	g.Allocated = root.Allocated
	for i := range layers - 1 {
		when := newest.Add(-time.Duration(layers-2-i) * day)
		snap := when.Format("nightly-20060102T150405Z")
		at.Snapshots = []page.Text{page.Text(snap)}
		at.Children = []page.Layer{{Path: page.Text(dir + name + "." + snap + ".qcow2"), Format: "qcow2", VirtualSize: 40 << 30, Allocated: (mib + int64(i*i*37%97)*mib/60) << 20, Mark: page.Kept}}
		at = &at.Children[0]
		g.Allocated += at.Allocated
		s := page.Snapshot{Name: page.Text(snap), Time: when, Ours: true, Keep: true, Reasons: []page.Text{page.Text(fmt.Sprintf("last %d of 7", layers-1-i)), page.Text("daily " + when.Format(time.DateOnly))}}
		if i%7 == 0 {
			s.Reasons = append(s.Reasons, page.Text("weekly "+isoWeek(when)))
		}
		g.Snapshots = append(g.Snapshots, s)
	}
	at.Mark, at.Users = page.Active, []page.Text{page.Text("disk " + name + "/vda")}
	g.Trees = []page.Layer{root}
	for i := range 60 {
		merged := (mib + int64(i*i*31%89)*mib/50) << 20
		g.History = append(g.History, page.Point{Time: newest.Add(-time.Duration(59-i) * day), Result: "done", Allocated: root.Allocated + int64(min(i, 20))*mib<<20 + int64(i*i%11)*mib<<18,
			Layers: min(3+i, layers), Took: float64(merged) / (180 << 20), Merged: merged})
	}
	return g
}

func isoWeek(t time.Time) string {
	year, week := t.ISOWeek()
	return fmt.Sprintf("%d-W%02d", year, week)
}

func crowd(guests, layers int) *page.Model {
	m := &page.Model{Host: "kvm1", Time: noon(), Program: "virt-rotate", Level: page.OK, Summary: page.Text(fmt.Sprintf("%d guests protected", guests))}
	for i := range guests {
		m.Guests = append(m.Guests, chained(fmt.Sprintf("guest-%04d", i), "/var/lib/libvirt/images/", layers, 400))
	}
	return m
}

// hostModel is a host as there are many, for the pictures of the documentation.
func hostModel() *page.Model {
	const dir = "/var/lib/libvirt/images/"
	since := noon().Add(-2 * day)
	web := chained("web-1", dir, 8, 620)
	base := &web.Trees[0]
	base.Shared, base.Users = true, []page.Text{"disk web-2/vda"}
	base.Children = append([]page.Layer{{Path: dir + "web-2.qcow2", Format: "qcow2", VirtualSize: 40 << 30, Allocated: 3 << 30, Mark: page.Active, Foreign: true, Users: []page.Text{"disk web-2/vda"}}}, base.Children...)
	third := &base.Children[1].Children[0].Children[0]
	third.Children = append([]page.Layer{{Path: dir + "web-1.before-upgrade.qcow2", Format: "qcow2", VirtualSize: 40 << 30, Allocated: 1400 << 20, Mark: page.Kept, Branch: true, Snapshots: []page.Text{"before-upgrade"}, Notes: []page.Text{`before-upgrade: pinned, "PHP 8.2"`}}}, third.Children...)
	web.Snapshots = append([]page.Snapshot{{Name: "before-upgrade", Time: noon().Add(-40 * day), Ours: true, Keep: true, Pinned: true, Reasons: []page.Text{"pinned"}, Note: "PHP 8.2"}}, web.Snapshots...)
	goes := noon().Add(16 * time.Hour)
	web.Snapshots[2].Goes = &goes
	web.Jobs = []page.Job{{Disk: "vda", Type: "commit", Done: 410 << 20, Size: 1 << 30}}
	web.Plan = page.Plan{Result: "4 steps", Steps: []page.Step{
		{Op: "drop-metadata", Text: web.Snapshots[1].Name, Reason: "no rule keeps it"},
		{Op: "merge", Text: "vda: web-1.nightly-20261116T033400Z.qcow2 into web-1.qcow2 (commit, 1.0 GiB)", Reason: "nobody keeps the state in web-1.qcow2"},
		{Op: "redefine", Text: "metadata of nightly-20261117T033400Z … nightly-20261122T033400Z: the chain below them has changed"},
		{Op: "delete-file", Text: dir + "web-1.nightly-20261116T033400Z.qcow2 (1.0 GiB)", Reason: "its data is in web-1.qcow2"}}}
	mail := chained("mail", "/srv/mail/", 6, 3100)
	mail.Level, mail.Free, mail.MinFree = page.Critical, 9<<30, 50<<30
	mail.Newest, mail.Due = &since, &since
	mail.Findings = []page.Finding{
		{Level: page.Critical, Code: "overdue", Detail: "the newest snapshot is 2d0h old; one is due every 24h"},
		{Level: page.Warning, Code: "low-space", Detail: "9.0 GiB are free on its storage, min_free = 50GiB keeps 50.0 GiB", Since: &since}}
	mail.LastRun = &page.Run{Time: *web.Newest, Result: "refused", Refused: []page.Finding{{Code: "no-space", Path: "/srv/mail", Detail: "the overlay of vda may need 12.0 GiB, and 9.0 GiB are free"}}}
	mail.Plan = page.Plan{Result: "refused", Refused: []page.Finding{{Code: "no-space", Path: "/srv/mail", Detail: "the overlay of vda may need 12.0 GiB, and 9.0 GiB are free", Remedy: "make room there, or lower min_free or reserve of the policy"}}}
	db := chained("db", dir, 5, 900)
	return &page.Model{Host: "kvm1.example.org", Time: noon(), Program: "virt-rotate", Level: page.Critical, Summary: "1 of 3 guests not well protected: mail (overdue, low-space)", Working: true, Guests: []page.Guest{db, mail, web}}
}
