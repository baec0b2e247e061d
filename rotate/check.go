package rotate

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// Check says whether d is protected, by what a assigns to it. It is pure. What a run would
// refuse, now or when the next snapshot is due, is among the reasons.
func Check(w *observe.World, d *host.Domain, a policy.Assignment, past Past, now time.Time) (v Verdict) {
	v = newVerdict(w, d, past)
	if c := a.Conflicts[d.Name]; c != nil {
		v.checkConflict(d, c, past)
		return v
	}
	rule := a.Rules[d.Name]
	if rule == nil {
		return v
	}
	fault := host.Contain(d.Name, func() {
		judged := newVerdict(w, d, past)
		c := checker{v: &judged, rule: rule, past: past, now: now, ahead: decide.Ahead(w, d, rule, now)}
		c.check(w, d)
		v = judged
	})
	if fault != nil {
		v.Policy = rule.Name
		v.add(Reason{Unknown, host.CodeFault, "", fault.Error(), nil})
	}
	return v
}

// Uncovered is the verdict on a domain that no policy covers.
func Uncovered(w *observe.World, d *host.Domain, severity policy.Severity, past Past) Verdict {
	v := newVerdict(w, d, past)
	levels := map[policy.Severity]Level{policy.SeverityWarn: Warning, policy.SeverityCrit: Critical}
	if level := levels[severity]; level != OK {
		v.add(Reason{level, ReasonUncovered, "", "no policy covers the domain", nil})
	}
	return v
}

// newVerdict has what can be seen without a policy.
func newVerdict(w *observe.World, d *host.Domain, past Past) Verdict {
	v := Verdict{Domain: d.Name, UUID: d.UUID, Reasons: []Reason{}, Free: -1, LastRun: past.LastRun, LastSuccess: past.LastSuccess}
	for i := range d.Snapshots {
		s := &d.Snapshots[i]
		if m, ours := s.Mark(); ours {
			taken := s.Time.UTC()
			if m.Pinned {
				v.Pinned++
			}
			v.Snapshots, v.Newest = v.Snapshots+1, &taken
		}
	}
	v.Layers, v.Allocated = footprint(w, d)
	return v
}

// checkConflict is critical: nothing is done to the domain until somebody decides.
func (v *Verdict) checkConflict(d *host.Domain, c *policy.Conflict, past Past) {
	p := decide.ConflictPlan(d, c)
	v.Policy = p.Policy
	for _, r := range p.Refused {
		v.add(Reason{Critical, r.Code, r.Path, r.Detail, past.since(r.Code)})
	}
}

// A checker judges one domain.
type checker struct {
	v     *Verdict
	rule  *policy.Rule
	past  Past
	now   time.Time
	ahead decide.Outlook
}

func (c *checker) check(w *observe.World, d *host.Domain) {
	c.v.Policy, c.v.MaxChain, c.v.Layers = c.rule.Name, c.rule.MaxChain, c.ahead.Layers
	c.v.Free, c.v.MinFree = c.ahead.Free, c.ahead.Floor
	c.checkPlan()
	c.checkLastRun()
	c.checkAge()
	c.checkUnfinished(w, d)
	c.checkWaiting()
	c.checkChain()
	c.checkSpace()
	slices.SortStableFunc(c.v.Reasons, func(a, b Reason) int { return b.Level.rank() - a.Level.rank() })
}

// checkAge does not mind the age of a state that the guest still has, nor that of a guest that
// the policy leaves alone.
func (c *checker) checkAge() {
	if !c.rule.TakesSnapshots() || c.ahead.Untouched || c.ahead.Plan.Result == decide.ResultSkipped {
		return
	}
	c.v.MaxAge, c.v.CritAge = c.rule.MaxAge()
	if c.v.Newest == nil {
		c.checkNone()
		return
	}
	age := c.v.Age(c.now)
	var level Level
	switch {
	case age > c.v.CritAge && !c.ahead.Stopped:
		level = Critical
	case age > c.v.MaxAge:
		level = Warning
	default:
		return
	}
	text := fmt.Sprintf("the newest snapshot is %s old; one is due every %s", span(age), span(c.rule.Every))
	if c.ahead.Stopped {
		text += "; " + c.ahead.Plan.Waiting
	}
	since := c.v.Newest.Add(c.v.MaxAge)
	c.v.add(Reason{level, ReasonOverdue, "", text, &since})
}

// checkNone is about a guest that has no snapshot: a new one gets its first with the next run.
func (c *checker) checkNone() {
	if c.past.First == nil {
		c.v.add(Reason{Warning, ReasonNone, "", "there is no snapshot yet, and no run is on record", nil})
		return
	}
	level := Warning
	if c.now.Sub(*c.past.First) > c.v.CritAge && !c.ahead.Stopped {
		level = Critical
	}
	c.v.add(Reason{level, ReasonNone, "", "there is no snapshot, though runs are on record", c.past.First})
}

// checkPlan tells what a run would refuse now, and what one would when a snapshot is due.
func (c *checker) checkPlan() {
	for _, r := range c.ahead.Plan.Refused {
		c.v.add(Reason{levelOf(r.Code), r.Code, r.Path, r.Detail, c.past.since(r.Code)})
	}
	for _, r := range c.ahead.Next {
		c.v.add(Reason{levelOf(r.Code), r.Code, r.Path, "when the next snapshot is due: " + r.Detail, nil})
	}
	if c.ahead.Plan.Result == decide.ResultFailed {
		c.v.add(Reason{Unknown, host.CodeFault, "", c.ahead.Plan.Error, nil})
	}
}

// levelOf is critical where data is lost, or the guest stands still. All else that is refused
// becomes critical when its newest snapshot is too old.
func levelOf(code string) Level {
	if code == host.CodeDestroyed || code == host.CodeIOError {
		return Critical
	}
	return Warning
}

// checkLastRun tells of a run that failed, and of what no plan can know. What the last run
// refused and the next one would not is over.
func (c *checker) checkLastRun() {
	last := c.past.LastRun
	if last == nil {
		return
	}
	since := c.past.Failed
	if since == nil {
		since = &last.Time
	}
	failed := last.Result == decide.ResultFailed
	if last.Result == decide.ResultCanceled { // the next one goes on, unless it never gets to the end
		warn, _ := c.rule.MaxAge()
		failed = c.now.Sub(*since) > warn
	}
	if failed {
		c.v.add(Reason{Warning, ReasonFailed, "", "the last run failed: " + last.Error, since})
	}
	for _, r := range last.Refused {
		if slices.Contains([]string{host.CodeHook, host.CodeInUse, host.CodeMetadata}, r.Code) && !c.told(r.Code) {
			c.v.add(Reason{Warning, r.Code, r.Path, "the last run refused: " + r.Detail, c.past.since(r.Code)})
		}
	}
}

func (c *checker) told(code string) bool {
	return slices.ContainsFunc(c.v.Reasons, func(r Reason) bool { return r.Code == code })
}

// checkUnfinished does not mind what a run that is at work has begun.
func (c *checker) checkUnfinished(w *observe.World, d *host.Domain) {
	in := w.Intents[d.UUID]
	if in == nil || in.Broken != "" || in.Adoption != nil || c.past.Working { // an adoption is refused as such
		return
	}
	began := in.Started.UTC()
	c.v.add(Reason{Warning, ReasonUnfinished, "", "a run was interrupted; the next one finishes it", &began})
}

func (c *checker) checkWaiting() {
	since := c.past.Waiting
	if !c.ahead.Plan.MergesWait || since == nil || c.now.Sub(*since) <= c.rule.Check.Waiting {
		return
	}
	c.v.add(Reason{Warning, ReasonWaiting, "", "merges are put off since " + span(c.now.Sub(*since)) + ": " + c.ahead.Plan.Waiting, since})
}

// checkChain warns of a chain that is longer than the rule explains and comes near max_chain,
// and of layers that nobody needs and that cannot be merged.
func (c *checker) checkChain() {
	if c.told(host.CodeChainLong) {
		return
	}
	if stuck := c.ahead.Plan.Warnings; len(stuck) > 0 {
		c.v.add(Reason{Warning, ReasonLong, "", strings.Join(stuck, "; "), nil})
		return
	}
	if n := c.ahead.Layers; n > c.ahead.Expected && n*4 >= c.rule.MaxChain*3 {
		c.v.add(Reason{Warning, ReasonLong, "", fmt.Sprintf("the chain has %s, more than the policy explains, and no snapshot is taken beyond max_chain = %d",
			host.Plural(n, "layer"), c.rule.MaxChain), nil})
	}
}

func (c *checker) checkSpace() {
	if c.ahead.Free < 0 || c.ahead.Free >= c.ahead.Floor || c.told(host.CodeNoSpace) {
		return
	}
	c.v.add(Reason{Warning, ReasonLowSpace, "", fmt.Sprintf("%s are free on its storage, min_free = %s keeps %s",
		host.Bytes(c.ahead.Free), c.rule.MinFree, host.Bytes(c.ahead.Floor)), nil})
}

// span is a duration in its two largest units.
func span(d time.Duration) string {
	d = d.Round(time.Second)
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	case d >= time.Minute:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	}
	return fmt.Sprintf("%ds", int(d.Seconds()))
}
