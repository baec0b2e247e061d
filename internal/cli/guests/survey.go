package guests

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/history"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// codeNoAnswer is the reason of guests of which libvirt did not tell.
const codeNoAnswer = "no-answer"

// A survey is what check and metrics tell of a host: what is on record, and, if libvirt
// answers, what can be seen.
type survey struct {
	file    *policy.File
	dir     string // state directory
	now     time.Time
	last    map[string]rotate.LastRun
	log     *history.Store
	totals  map[string]history.Totals
	runs    history.HostRuns
	newest  map[string]history.Entry   // of each domain, the last entry of a run on it
	byName  map[string][]history.Entry // the newest entries of each domain, oldest first
	working bool
	notes   []string // what could not be read of the records

	world    *observe.World // nil where libvirt has not answered
	noAnswer string         // why
	failed   error          // the same, as it came
	assigned policy.Assignment
	verdicts []rotate.Verdict // of the domains asked for, by name; of all that a policy covers or should
}

// newSurvey reads what is on record. Only an error in the policy is one.
func newSurvey(e *term.Env) (*survey, error) {
	f, err := session.LoadPolicy(e)
	if err != nil {
		return nil, err
	}
	s := &survey{file: f, now: e.Clock()}
	if s.dir, err = session.StateDir(e, f); err != nil {
		return nil, err
	}
	s.readRecords()
	return s, nil
}

// readRecords takes what can be read: a report stands without the rest.
func (s *survey) readRecords() {
	var errs [4]error
	s.last, errs[0] = rotate.LastRuns(s.dir)
	s.log = history.In(s.dir)
	s.totals, errs[1] = s.log.Totals()
	s.runs, errs[3] = s.log.HostRuns()
	s.working, errs[2] = vfs.RunLockHeld(filepath.Join(s.dir, "run.lock"))
	for _, err := range errs {
		s.note(err)
	}
}

func (s *survey) note(err error) {
	if err != nil {
		s.notes = append(s.notes, oneLine(err.Error()))
	}
}

// look asks libvirt, for as long as patience lasts. A call that takes longer is left behind.
func (s *survey) look(ctx context.Context, patience time.Duration, ask observing) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	type answer struct {
		w   *observe.World
		err error
	}
	told := make(chan answer, 1)
	go func() {
		w, err := contained(ctx, ask)
		told <- answer{w, err}
	}()
	select {
	case a := <-told:
		s.take(a.w, a.err)
	case <-ctx.Done():
		s.take(nil, ctx.Err())
	}
}

// take notes what libvirt has answered.
func (s *survey) take(w *observe.World, err error) {
	s.failed = err
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		s.noAnswer = "libvirt does not answer in time"
	case err != nil:
		s.noAnswer = oneLine(err.Error())
	default:
		s.world = w
	}
}

// observing is how the host is looked at.
type observing func(context.Context) (*observe.World, error)

// contained turns a fault into an error: the program must end with a status that says so.
func contained(ctx context.Context, ask observing) (w *observe.World, err error) {
	defer func() {
		if p := recover(); p != nil {
			w, err = nil, fmt.Errorf("a fault of virt-rotate: %v\n%s", p, debug.Stack())
		}
	}()
	return ask(ctx)
}

// fromOutside opens a connection for the look.
func fromOutside(e *term.Env) observing {
	return func(ctx context.Context) (*observe.World, error) {
		l, err := session.OpenLook(e, false)
		if err != nil {
			return nil, err
		}
		w, err := l.Observer.Observe(ctx)
		return w, errors.Join(err, l.Close())
	}
}

// judge makes the verdicts on the domains of these names, or on all that a policy covers or
// should cover.
func (s *survey) judge(names []string) error {
	if s.world == nil {
		s.judgeRecords(names)
		return nil
	}
	s.assigned = decide.Assign(s.world, s.file.MatchGuests)
	names, err := decide.Domains(s.world, names)
	if err != nil {
		return err
	}
	entries := s.entries(s.world.Names())
	for i := range s.world.Domains {
		d := &s.world.Domains[i]
		if len(names) > 0 && !slices.Contains(names, d.Name) {
			continue
		}
		past := pastOf(d.Name, d.UUID, entries[d.Name], s.last)
		past.Working = s.working
		if v, wanted := s.verdict(d, past, len(names) > 0); wanted {
			s.verdicts = append(s.verdicts, v)
		}
	}
	s.sort()
	return nil
}

// verdict is about a domain of the host. One without a policy that is none of ours is not
// told, unless it was named: then it is no less than a warning.
func (s *survey) verdict(d *host.Domain, past rotate.Past, named bool) (rotate.Verdict, bool) {
	if s.assigned.Rules[d.Name] != nil || s.assigned.Conflicts[d.Name] != nil {
		return judged(s.world, d, s.assigned, past, s.now), true
	}
	severity := s.file.Check.Of(d.Name)
	if named && severity == policy.SeverityIgnore {
		severity = policy.SeverityWarn
	}
	return rotate.Uncovered(s.world, d, severity, past), severity != policy.SeverityIgnore
}

// judged is the verdict on a domain that a is about.
func judged(w *observe.World, d *host.Domain, a policy.Assignment, past rotate.Past, now time.Time) rotate.Verdict {
	return judgedBy(os.Geteuid(), rotate.Check(w, d, a, past, now))
}

// judgedBy says that an ordinary user cannot know where he cannot read: a run of root would
// not refuse that.
func judgedBy(uid int, v rotate.Verdict) rotate.Verdict {
	if uid == 0 {
		return v
	}
	v.Reasons, v.Level = slices.Clone(v.Reasons), rotate.OK
	for i := range v.Reasons {
		if r := &v.Reasons[i]; strings.Contains(r.Detail, syscall.EACCES.Error()) {
			r.Level, r.Code, r.Detail = rotate.Unknown, decide.FindRoot, "this user cannot read it, run check as root: "+r.Detail
		}
		v.Level = v.Level.Worst(v.Reasons[i].Level)
	}
	return v
}

// judgeRecords tells what is on record where libvirt is silent.
func (s *survey) judgeRecords(names []string) {
	known := slices.Sorted(maps.Keys(s.totals))
	rules := s.file.Match(known).Rules
	entries := s.entries(known)
	for _, name := range known {
		es := entries[name]
		if len(es) == 0 || s.policyOn(rules[name], es) == "" || len(names) > 0 && !meant(names, name) {
			continue
		}
		uuid := es[len(es)-1].UUID
		past := pastOf(name, uuid, es, s.last)
		s.verdicts = append(s.verdicts, rotate.Verdict{Domain: name, UUID: uuid, Policy: s.policyOn(rules[name], es), Level: rotate.Unknown, Free: -1,
			Reasons:     []rotate.Reason{{Level: rotate.Unknown, Code: codeNoAnswer, Detail: s.noAnswer}},
			LastRun:     past.LastRun,
			LastSuccess: past.LastSuccess})
	}
	s.sort()
}

// policyOn is the name of a domain's policy where libvirt is silent; "" where it has none. What
// its own metadata says is known from its last run.
func (s *survey) policyOn(rule *policy.Rule, entries []history.Entry) string {
	last := entries[len(entries)-1].Policy
	switch {
	case rule != nil:
		return rule.Name
	case s.file.Metadata.Allow && slices.ContainsFunc(s.file.Rules, func(r policy.Rule) bool { return r.Name == last }):
		return last
	}
	return ""
}

// meant tells whether a name or a glob of names is of the domain.
func meant(names []string, domain string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return name == domain || len(policy.Matching(name, []string{domain})) > 0 })
}

// entries are the newest ones of each domain, oldest first.
func (s *survey) entries(names []string) map[string][]history.Entry {
	by := map[string][]history.Entry{}
	if len(names) == 0 {
		return by
	}
	entries, err := s.log.Read(history.Query{Domains: names, Each: pastEntries})
	s.note(err)
	s.newest, s.byName = map[string]history.Entry{}, by
	for i := range entries {
		e := &entries[i]
		by[e.Domain] = append(by[e.Domain], *e)
		if e.Command == "run" {
			s.newest[e.Domain] = *e
		}
	}
	return by
}

// sort puts the worst first.
func (s *survey) sort() {
	slices.SortStableFunc(s.verdicts, func(a, b rotate.Verdict) int {
		if a.Level != b.Level {
			if a.Level.Worst(b.Level) == a.Level {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Domain, b.Domain)
	})
}

// uncovered are the domains that have no policy and should have one.
func (s *survey) uncovered() []string {
	names := []string{}
	for i := range s.verdicts {
		if slices.ContainsFunc(s.verdicts[i].Reasons, func(r rotate.Reason) bool { return r.Code == rotate.ReasonUncovered }) {
			names = append(names, s.verdicts[i].Domain)
		}
	}
	return names
}

// statuses are how the domains of the verdicts stand, in that order; nil for those that no
// policy covers.
func (s *survey) statuses() []*rotate.DomainStatus {
	all := make([]*rotate.DomainStatus, len(s.verdicts))
	for i := range s.verdicts {
		name := s.verdicts[i].Domain
		if s.world == nil || s.world.Domain(name) == nil {
			continue
		}
		if s.assigned.Rules[name] != nil || s.assigned.Conflicts[name] != nil {
			st := statusOf(s.world, s.world.Domain(name), s.assigned, s.last)
			all[i] = &st
		}
	}
	return all
}

func oneLine(text string) string { return term.Printable(strings.Join(strings.Fields(text), " ")) }
