package rotate

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// A shape is a host, and what is to be done to its domain "web".
type shape struct {
	name    string
	build   func(h *hosttest.Host, web *hosttest.Domain)
	rule    *policy.Rule // keep the last 2 if nil
	options decide.Options
	now     time.Time // 12 o'clock if zero
	steps   string
	waiting string // part of what is put off
	reason  string // part of the first step's reason
	code    string // of the only refusal
}

// coalesce plans merges alone.
func coalesce() decide.Options { return decide.Options{NoSnapshot: true} }

func (s *shape) host(t *testing.T) *hosttest.Host {
	h := hosttest.New(t)
	s.build(h, h.Add("web"))
	if !s.now.IsZero() {
		h.Now = s.now
	}
	if s.rule == nil {
		s.rule = rule(2)
	}
	return h
}

func planOf(h *hosttest.Host, t *testing.T, r *Rotator, domain string) decide.Plan {
	t.Helper()
	plans, _, err := r.Plan(context.Background(), []string{domain})
	if err != nil {
		t.Fatal(err)
	}
	return plans[0]
}

// runAll runs to the end and returns the plans by domain.
func runAll(h *hosttest.Host, t *testing.T, r *Rotator) map[string]decide.Plan {
	t.Helper()
	plans, err := r.Run(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	by := map[string]decide.Plan{}
	for _, p := range plans {
		by[p.Domain] = p
	}
	return by
}

// check compares plan and run with what the shape wants, and sees that a
// second run has nothing to do.
func (s *shape) check(t *testing.T) {
	h := s.host(t)
	r := rotator(h, s.rule)
	r.Options = s.options
	p := planOf(h, t, r, "web")
	wantSteps(h, t, p, s.steps)
	s.checkTold(t, &p)
	record(h, t, s.name, s.rule, s.options)
	checkData(h, t)
	if t.Failed() {
		return
	}
	ran := runAll(h, t, withOptions(h, r))["web"]
	if ran.Error != "" {
		t.Fatal(ran.Error)
	}
	wantSteps(h, t, ran, s.steps)
	checkDone(h, t)
	r.Options.IgnoreEvery = false
	if again := runAll(h, t, r)["web"]; len(again.Steps) > 0 || again.Error != "" {
		t.Errorf("a second run: %v %s", lines(h, t, again.Steps), again.Error)
	}
}

func (s *shape) checkTold(t *testing.T, p *decide.Plan) {
	t.Helper()
	if !strings.Contains(p.Waiting, s.waiting) || s.waiting == "" && p.Waiting != "" {
		t.Errorf("waiting: %q, want %q", p.Waiting, s.waiting)
	}
	if s.reason != "" && (len(p.Steps) == 0 || !strings.Contains(p.Steps[0].Reason, s.reason)) {
		t.Errorf("first reason is not %q: %+v", s.reason, p.Steps)
	}
	codes := []string{}
	for _, r := range p.Refused {
		codes = append(codes, r.Code)
	}
	if s.code == "" && len(codes) > 0 || s.code != "" && !slices.Equal(codes, []string{s.code}) {
		t.Errorf("refused: %+v, want %q", p.Refused, s.code)
	}
}

// withOptions returns a fresh rotator with the options of r: nothing of a plan is kept for the run.
func withOptions(h *hosttest.Host, r *Rotator) *Rotator {
	return &Rotator{Observer: r.Observer, Host: r.Host, Clock: r.Clock, Report: r.Report, Match: r.Match, Options: r.Options}
}

func with(r *policy.Rule, change func(*policy.Rule)) *policy.Rule {
	change(r)
	return r
}

// one gives web one disk with snapshots at these hours.
func one(hours ...int) func(*hosttest.Host, *hosttest.Domain) {
	return func(h *hosttest.Host, web *hosttest.Domain) {
		h.Disk(web, "vda", "web.qcow2")
		h.Take(web, hours)
	}
}

func TestShapesOfOneDisk(t *testing.T) {
	shapes := []shape{
		{name: "first snapshot", build: one(), steps: "snapshot S12 vda: web.S12 on web", reason: "no snapshot of ours"},
		{name: "raw base", build: func(h *hosttest.Host, web *hosttest.Domain) {
			h.Disk(web, "vda", "web.raw")
			h.Take(web, []int{9, 10, 11})
		}, options: coalesce(), steps: `
			drop-metadata S9
			commit vda: web.S9 into web.raw
			redefine S10
			redefine S11
			delete web.S9`},
		{name: "the oldest goes", build: one(9, 10, 11), options: coalesce(), steps: `
			drop-metadata S9
			commit vda: web.S9 into web
			redefine S10
			redefine S11
			delete web.S9`, reason: "no rule keeps it"},
		{name: "snapshot, then the oldest goes", build: one(10, 11), steps: `
			snapshot S12 vda: web.S12 on web.S11
			drop-metadata S10
			commit vda: web.S10 into web
			redefine S11
			redefine S12
			delete web.S10`, reason: "due every 1h"},
		{name: "a run of neighbours goes in one merge", build: one(7, 8, 9, 10, 11), options: coalesce(), steps: `
			drop-metadata S7
			drop-metadata S8
			drop-metadata S9
			commit vda: web.S9 into web
			redefine S10
			redefine S11
			delete web.S7
			delete web.S8
			delete web.S9`},
		{name: "one in the middle goes", build: func(h *hosttest.Host, web *hosttest.Domain) {
			one(9, 10, 11)(h, web)
			web.Snapshots[2].Time = hosttest.Hour(10).Add(30 * time.Minute)
		}, options: coalesce(),
			rule: with(rule(1), func(r *policy.Rule) { r.Keep = policy.Keep{Last: 1, Hourly: 9} }),
			steps: `
			drop-metadata S10
			commit vda: web.S10 into web.S9
			redefine S11
			delete web.S10`},
		{name: "keep nothing: the active layer is merged too", build: one(10, 11),
			rule: with(rule(0), func(r *policy.Rule) { r.Keep = policy.Keep{} }), steps: `
			drop-metadata S10
			drop-metadata S11
			active-commit vda: web.S11 into web
			delete web.S10
			delete web.S11`, reason: "keep is 0"},
		{name: "keep nothing, one layer", build: one(),
			rule: with(rule(0), func(r *policy.Rule) { r.Keep = policy.Keep{} })},
		{name: "nothing to do", build: one(11, 12)},
		{name: "two ranges of one disk at once", build: func(h *hosttest.Host, web *hosttest.Domain) {
			one(7, 8, 9, 10)(h, web)
			releases(h, web, 0, 2) // an earlier run could not merge their layers
		}, options: coalesce(), steps: `
			commit vda: web.S7 into web
			commit vda: web.S9 into web.S8
			redefine S8
			redefine S10
			delete web.S7
			delete web.S9`},
		{name: "a layer below the guest's own stays", build: func(h *hosttest.Host, web *hosttest.Domain) {
			h.Disk(web, "vda", "golden.qcow2", "web.qcow2")
			h.Take(web, []int{9, 10, 11})
		}, options: coalesce(), steps: `
			drop-metadata S9
			commit vda: web.S9 into web
			redefine S10
			redefine S11
			delete web.S9`},
	}
	for _, s := range shapes {
		t.Run(s.name, s.check)
	}
}

// Days apart: the daily rule leaves gaps.
func TestSeparateMiddlesAreMergedOneByOne(t *testing.T) {
	s := shape{
		build:   one(1, 2, 3, 4, 5, 6),
		rule:    with(rule(1), func(r *policy.Rule) { r.Keep = policy.Keep{Last: 1, Hourly: 10} }),
		options: coalesce(),
	}
	h := s.host(t)
	web := h.Find("web")
	for i, half := range []int{0, 1, 2, 3, 4, 5} { // 1:00 1:30 2:00 2:30 3:00 3:30
		web.Snapshots[i].Time = hosttest.Hour(1).Add(time.Duration(half) * 30 * time.Minute)
	}
	r := rotator(h, s.rule)
	r.Options = s.options
	want := `
		drop-metadata S1
		commit vda: web.S1 into web
		redefine S2
		redefine S3
		redefine S4
		redefine S5
		redefine S6
		delete web.S1
		drop-metadata S3
		commit vda: web.S3 into web.S2
		redefine S4
		redefine S5
		redefine S6
		delete web.S3
		drop-metadata S5
		commit vda: web.S5 into web.S4
		redefine S6
		delete web.S5`
	wantSteps(h, t, planOf(h, t, r, "web"), want)
	wantSteps(h, t, runAll(h, t, r)["web"], want)
	checkDone(h, t)
}

func TestShapesOfSeveralDisks(t *testing.T) {
	two := func(h *hosttest.Host, web *hosttest.Domain) {
		h.Disk(web, "vda", "web.qcow2")
		h.Disk(web, "vdb", "data.raw")
	}
	shapes := []shape{
		{name: "each disk has its chain", build: func(h *hosttest.Host, web *hosttest.Domain) {
			two(h, web)
			h.Take(web, []int{10, 11})
		}, rule: rule(1), options: coalesce(), steps: `
			drop-metadata S10
			commit vda: web.S10 into web
			commit vdb: data.S10 into data.raw
			redefine S11
			delete web.S10
			delete data.S10`},
		{name: "a disk that some snapshots do not cover", build: func(h *hosttest.Host, web *hosttest.Domain) {
			two(h, web)
			h.Take(web, []int{8}, "vda")
			h.Take(web, []int{9})
			h.Take(web, []int{10}, "vdb")
			h.Take(web, []int{11})
		}, rule: rule(1), options: coalesce(), steps: `
			drop-metadata S8
			drop-metadata S9
			drop-metadata S10
			commit vda: web.S9 into web
			commit vdb: data.S10 into data.raw
			redefine S11
			delete web.S8
			delete web.S9
			delete data.S9
			delete data.S10`},
		{name: "the policy leaves a disk out", build: func(h *hosttest.Host, web *hosttest.Domain) {
			two(h, web)
			h.Take(web, []int{10, 11}, "vda")
		}, rule: with(rule(2), func(r *policy.Rule) { r.Disks = []string{"vda"} }), steps: `
			snapshot S12 vda: web.S12 on web.S11
			drop-metadata S10
			commit vda: web.S10 into web
			redefine S11
			redefine S12
			delete web.S10`},
		{name: "two disks on one base", build: func(h *hosttest.Host, web *hosttest.Domain) {
			h.Disk(web, "vda", "golden.qcow2", "a.qcow2")
			h.Disk(web, "vdb", "golden.qcow2", "b.qcow2")
			h.Take(web, []int{10, 11})
		}, rule: rule(1), options: coalesce(), steps: `
			drop-metadata S10
			commit vda: a.S10 into a
			commit vdb: b.S10 into b
			redefine S11
			delete a.S10
			delete b.S10`},
	}
	for _, s := range shapes {
		t.Run(s.name, s.check)
	}
}
