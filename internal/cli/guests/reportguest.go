package guests

import (
	"cmp"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/history"
	"github.com/virt-rotate/virt-rotate/internal/page"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// pagePoints is how many runs of a guest a page shows.
const pagePoints = 90

// page is what the survey has found of the domains of these names, or of all.
func (s *survey) page(version string, names []string) (*page.Model, error) {
	if err := s.judge(names); err != nil {
		return nil, err
	}
	check := newCheckReport(s)
	hostname, err := os.Hostname()
	s.note(err)
	m := &page.Model{Host: page.Text(cmp.Or(hostname, "this host")), Time: s.now.Truncate(time.Second), Program: page.Text("virt-rotate " + version),
		Level: page.Level(check.Level.String()), Summary: page.Text(check.Summary), Working: s.working, Notes: page.Texts(s.notes), Guests: []page.Guest{}}
	f := newForester(s.world)
	statuses := s.statuses()
	for i := range s.verdicts {
		m.Guests = append(m.Guests, s.pageGuest(&s.verdicts[i], statuses[i], f))
	}
	slices.SortStableFunc(m.Guests, func(a, b page.Guest) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return m, nil
}

// pageGuest is the guest of a verdict; st is nil where no policy covers it, or libvirt is silent.
func (s *survey) pageGuest(v *rotate.Verdict, st *rotate.DomainStatus, f *forester) page.Guest {
	g := page.Guest{Name: page.Text(v.Domain), UUID: page.Text(v.UUID), Policy: page.Text(v.Policy), State: "not known", Level: page.Level(v.Level.String()), Findings: pageReasons(v.Reasons),
		Newest: v.Newest, Layers: v.Layers, MaxChain: v.MaxChain, Allocated: v.Allocated, Free: v.Free, MinFree: v.MinFree,
		LastRun: pageRun(v.LastRun), LastSuccess: v.LastSuccess,
		Skipped: []page.Finding{}, Jobs: []page.Job{}, Trees: []page.Layer{}, Snapshots: []page.Snapshot{}, History: pageHistory(v, s.byName[v.Domain]),
		Plan: page.Plan{Steps: []page.Step{}, Refused: []page.Finding{}, Next: []page.Finding{}, Warnings: []page.Text{}}}
	if s.world == nil || s.world.Domain(v.Domain) == nil {
		return g
	}
	d := s.world.Domain(v.Domain)
	g.State, g.Jobs = page.Text(d.State), pageJobs(d)
	if fault := host.Contain(d.Name, func() { g.Trees = f.trees(d) }); fault != nil {
		s.note(fault)
	}
	if st == nil {
		g.Snapshots = foreignSnapshots(d)
		return g
	}
	g.Due, g.WentBack, g.Skipped = st.Due, page.Text(st.WentBack), pageRefusals(d, st.Skipped)
	rule := s.assigned.Rules[d.Name]
	g.Snapshots = pageSnapshots(st, s.goes(d, rule))
	s.pagePlan(&g, d, rule, st)
	return g
}

// pagePlan tells what a run does now, and what one will refuse.
func (s *survey) pagePlan(g *page.Guest, d *host.Domain, rule *policy.Rule, st *rotate.DomainStatus) {
	if rule == nil { // several policies match
		g.Plan.Result, g.Plan.Refused = decide.ResultRefused, pageRefusals(d, st.Refused)
		return
	}
	fault := host.Contain(d.Name, func() {
		ahead := decide.Ahead(s.world, d, rule, s.now)
		p := &ahead.Plan
		g.Plan = page.Plan{Result: page.Text(resultText(p)), Waiting: page.Text(p.Waiting), Steps: pageSteps(p),
			Refused: pageRefusals(d, p.Refused), Next: pageRefusals(d, ahead.Next), Warnings: page.Texts(p.Warnings)}
	})
	if fault != nil {
		g.Plan.Result = page.Text(fault.Error())
	}
}

// pageSteps are those of a plan; a row of redefinitions is one.
func pageSteps(p *decide.Plan) []page.Step {
	steps := []page.Step{}
	for i := range p.Steps {
		s := &p.Steps[i]
		if i > 0 && s.Op == p.Steps[i-1].Op && s.Op == decide.OpRedefine && s.Snapshot != "" {
			continue
		}
		steps = append(steps, page.Step{Op: page.Text(s.Op), Text: page.Text(stepText(p.Steps[i:])), Bytes: s.Bytes, Reason: page.Text(s.Reason)})
	}
	return steps
}

// pageReasons are findings with what to do about them, where that is known.
func pageReasons(reasons []rotate.Reason) []page.Finding {
	found := []page.Finding{}
	for _, r := range reasons {
		found = append(found, page.Finding{Level: page.Level(r.Level.String()), Code: page.Text(r.Code), Path: page.Text(r.Path), Detail: page.Text(r.Detail), Since: r.Since})
	}
	return found
}

// pageRefusals are refusals with what doctor says to do about them.
func pageRefusals(d *host.Domain, refused []decide.Refusal) []page.Finding {
	found := []page.Finding{}
	for _, r := range refused {
		f := decide.FindingOf(d, r)
		found = append(found, page.Finding{Code: page.Text(r.Code), Path: page.Text(r.Path), Detail: page.Text(r.Detail), Remedy: page.Text(f.Remedy)})
	}
	return found
}

func pageRun(r *rotate.LastRun) *page.Run {
	if r == nil {
		return nil
	}
	run := &page.Run{Time: r.Time, Result: page.Text(r.Result), Error: page.Text(r.Error), Refused: []page.Finding{}}
	for _, x := range r.Refused {
		run.Refused = append(run.Refused, page.Finding{Code: page.Text(x.Code), Path: page.Text(x.Path), Detail: page.Text(x.Detail)})
	}
	return run
}

func pageJobs(d *host.Domain) []page.Job {
	jobs := []page.Job{}
	for i := range d.Disks {
		if j := d.Disks[i].Job; j != nil {
			jobs = append(jobs, page.Job{Disk: page.Text(d.Disks[i].Target), Type: page.Text(j.Type), Done: j.Done, Size: j.Size})
		}
	}
	return jobs
}

// pageHistory is the guest after each of its last runs: of this very domain.
func pageHistory(v *rotate.Verdict, entries []history.Entry) []page.Point {
	points := []page.Point{}
	for i := range entries {
		if x := &entries[i]; x.Command == "run" && x.UUID == v.UUID {
			points = append(points, page.Point{Time: x.End, Result: page.Text(x.Result), Allocated: x.Allocated, Layers: x.Layers, Took: x.Took, Merged: x.Merged, Freed: x.Freed})
		}
	}
	return points[max(0, len(points)-pagePoints):]
}

// horizon is how far ahead a page looks for snapshots that go: some snapshots, and a day at least, but not
// past a hundred snapshots, which is a day where one is taken each quarter of an hour.
func horizon(rule *policy.Rule) time.Duration {
	const day, most = 24 * time.Hour, 100
	ahead := max(day, min(3*rule.Every, 7*day))
	if rule.TakesSnapshots() {
		ahead = min(ahead, most*max(rule.Every, time.Second))
	}
	return ahead
}

// goes tells when each snapshot that a rule keeps now is dropped within the next days, if the guest
// runs throughout.
func (s *survey) goes(d *host.Domain, rule *policy.Rule) map[string]time.Time {
	at := map[string]time.Time{}
	if rule == nil {
		return at
	}
	sim, err := rule.Simulate(decide.Taken(d), s.now, horizon(rule))
	if err != nil { // too many snapshots are due in that time
		return at
	}
	for _, m := range sim.Moments {
		for _, name := range m.Dropped {
			at[name] = m.Time
		}
	}
	return at
}

func pageSnapshots(st *rotate.DomainStatus, goes map[string]time.Time) []page.Snapshot {
	snaps := []page.Snapshot{}
	for i := range st.Snapshots {
		x := &st.Snapshots[i]
		s := page.Snapshot{Name: page.Text(x.Name), Time: x.Time, Ours: x.Ours, Keep: x.Keep, Pinned: x.Pinned, Lost: x.Lost, Expires: x.Expires,
			Reasons: []page.Text{page.Text(x.Reason)}, Note: page.Text(x.Note), Quiesced: x.Quiesced, LeftOut: page.Text(x.LeftOut)}
		if x.Ours && !x.Lost {
			s.Reasons = page.Texts(strings.Split(x.Reason, ", "))
		}
		if t, ok := goes[x.Name]; ok && x.Keep {
			s.Goes = &t
		}
		if x.Memory != nil {
			s.Memory = x.Memory.Allocated
		}
		snaps = append(snaps, s)
	}
	return snaps
}

// foreignSnapshots are those of a domain without a policy: nobody drops them.
func foreignSnapshots(d *host.Domain) []page.Snapshot {
	snaps := []page.Snapshot{}
	for i := range d.Snapshots {
		x := &d.Snapshots[i]
		m, ours := x.Mark()
		s := page.Snapshot{Name: page.Text(x.Name), Time: x.Time, Ours: ours, Keep: true, Pinned: m.Pinned, Note: page.Text(m.Note), Reasons: []page.Text{"no policy"}}
		if !ours {
			s.Note = page.Text(x.Description)
		}
		snaps = append(snaps, s)
	}
	return snaps
}
