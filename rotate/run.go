package rotate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/engine"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
	"golang.org/x/sync/errgroup"
)

// maxAge is how old the view of the other domains may be when a decision on
// one domain is taken. The domain itself is always looked at afresh.
const maxAge = 10 * time.Second

// deleteAge is the same for the deletion of a file, which has to know of users
// that came while a merge ran.
const deleteAge = 2 * time.Second

// maxRounds bounds how often one domain is planned anew in one run.
const maxRounds = 500

// maxMoves bounds how often that may be because a guest was started or stopped.
const maxMoves = 5

// An EventKind says what an Event tells.
type EventKind string

// The kinds of events.
const (
	EventStep     EventKind = "step"     // the step starts
	EventProgress EventKind = "progress" // of the merge that runs
	EventDone     EventKind = "done"     // the step is done
	EventWarning  EventKind = "warning"
	EventOutput   EventKind = "output" // a hook has said a line
	EventFault    EventKind = "fault"  // a panic in the work on the domain, with where it was
)

// An Event tells what a run does just now.
type Event struct {
	Kind        EventKind
	Domain      string
	Step        decide.Step
	Done, Total int64 // bytes, of a merge
	Text        string
}

// A Rotator carries rotations out.
type Rotator struct {
	Observer *observe.Observer
	Host     host.Host
	Match    decide.Matcher
	Clock    func() time.Time
	Options  decide.Options
	Engine   engine.Engine     // for guests that are shut off
	Mover    host.Mover        // for guests that go to other hosts; nil: none does
	Report   func(Event)       // called from several goroutines; never nil
	Ended    func(decide.Plan) // is told of each domain as its work ends, from several goroutines; may be nil

	// Hook runs a program of the policy; nil: none is run.
	Hook func(context.Context, decide.Hook) error

	// StartPatience is how long a start may take that cannot succeed; 0: 20 s.
	StartPatience time.Duration

	storages storageLocks
	latest   latestView
	crash    func(place string) // tests let a run die here; nil in a real one
}

// boundary marks a place between two steps at which a crash must do no harm.
func (r *Rotator) boundary(place string) {
	if r.crash != nil {
		r.crash(place)
	}
	failpoint(place)
}

// Plan decides for the named domains, or for all that a policy covers. It changes nothing.
func (r *Rotator) Plan(ctx context.Context, names []string) ([]decide.Plan, *observe.World, error) {
	w, err := r.Observer.Observe(ctx)
	if err != nil {
		return nil, nil, err
	}
	chosen, err := decide.Select(w, r.Match, names)
	if err != nil {
		return nil, nil, err
	}
	o := r.Options
	o.Reserved = &decide.Reservations{}
	now := r.Clock()
	r.tellFaults(w.Faults...)
	plans := []decide.Plan{}
	for i := range w.Domains {
		d := &w.Domains[i]
		if c := chosen.Conflicts[d.Name]; c != nil {
			plans = append(plans, decide.ConflictPlan(d, c))
		} else if rule := chosen.Rules[d.Name]; rule != nil {
			p := r.decide(w, d, rule, now, o)
			p.Hooks = plannedHooks(rule, &p)
			plans = append(plans, p)
		}
	}
	return plans, w, nil
}

// Lock takes the lock that allows one run a host, and removes what a run that
// was killed left half written in the state directory. The error is a
// *vfs.HeldError when another run has the lock.
func Lock(stateDir string) (*vfs.RunLock, error) {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return nil, err
	}
	lock, err := vfs.AcquireRunLock(filepath.Join(stateDir, "run.lock"))
	if err != nil {
		return nil, err
	}
	if err := journal.Sweep(stateDir); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// Run carries out what Plan decides. The caller holds the Lock. What happened
// to each domain is in its Plan: the steps are those that were carried out.
// Running again after a crash or an error is safe.
func (r *Rotator) Run(ctx context.Context, names []string) ([]decide.Plan, error) {
	seen := r.Clock()
	plans, w, err := r.Plan(ctx, names)
	if err != nil {
		return nil, err
	}
	if len(w.Moves) > 0 && r.endMoves(ctx, w) {
		if plans, w, err = r.Plan(ctx, names); err != nil {
			return nil, err
		}
	}
	chosen, err := decide.Select(w, r.Match, names)
	if err != nil {
		return nil, err
	}
	leave, err := r.atWork(ctx, w)
	if err != nil {
		return nil, err
	}
	defer func() { leave(decide.Summarize(plans).Steps > 0, r.ran(names, plans)) }()
	held, took := r.takeUpAll(ctx, w, plans)
	if took {
		if plans, w, err = r.Plan(ctx, names); err != nil {
			return nil, err
		}
	}
	o := r.Options
	o.Reserved = &decide.Reservations{}
	var g errgroup.Group
	g.SetLimit(o.Parallel())
	for i := range plans {
		g.Go(func() error {
			d := &domainRun{Rotator: r, rule: decide.RuleFor(chosen, plans[i].Domain), w: w, seen: seen, o: o, start: r.Clock(), held: held[plans[i].Domain]}
			plans[i] = d.contained(ctx, plans[i])
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return plans, err
	}
	if r.Options.ByHand != nil { // the last run is one by the clock
		return plans, r.Observer.Save()
	}
	return plans, errors.Join(r.saveLastRuns(w, plans), r.Observer.Save())
}

// A domainRun is the rotation of one domain.
type domainRun struct {
	*Rotator
	rule *policy.Rule
	w    *observe.World // the last view of the host
	seen time.Time      // when all of it was looked at
	o    decide.Options
	done []decide.Step
	// merged tells that a merge of the present group has moved data.
	merged bool
	// frozen tells that the guest may be frozen and could not be thawed.
	frozen bool
	// owes tells that the snapshots' metadata is not as the next owner would read it.
	owes bool
	// held is why nothing may be done with the domain.
	held error
	// stood is how long the guest stood still for a snapshot with its memory.
	stood time.Duration

	start    time.Time
	begun    bool // the first step, or the hook before it
	hooks    []decide.Hook
	warnings []string
}

// run carries out one group of steps after the other and decides anew before
// each, so that every group rests on the world as it is.
func (r *domainRun) run(ctx context.Context, p decide.Plan) decide.Plan {
	if r.held != nil {
		return r.finish(ctx, p, r.held)
	}
	if err := r.settleEarlier(ctx, &p); err != nil {
		return r.finish(ctx, p, err)
	}
	var last []decide.Step
	moves := 0
	for round := 0; len(p.Groups) > 0 && ctx.Err() == nil; round++ {
		var err error
		if p, err = r.again(ctx, p.Domain); err != nil {
			return r.finish(ctx, p, err)
		}
		if len(p.Groups) == 0 {
			break
		}
		if r.firstHook(ctx, &p) {
			continue // what was planned may have changed meanwhile
		}
		g := &p.Groups[0]
		steps := p.Steps[g.First : g.First+g.Steps]
		if round == maxRounds || slices.Equal(steps, last) {
			return r.finish(ctx, p, fmt.Errorf("%s: %s had no lasting effect: giving up for now", p.Domain, steps[0]))
		}
		last = steps
		err = r.group(ctx, &p, g)
		var refused *refusedError
		var read *readError
		switch {
		case err == nil:
		case errors.As(err, &read) && moves < maxMoves:
			moves++
			last = nil
		case errors.Is(err, errMoved) && moves < maxMoves && !r.skipped(p.Domain):
			moves++
			fallthrough
		case errors.Is(err, errOtherWay):
			r.Report(Event{Kind: EventWarning, Domain: p.Domain, Text: err.Error() + ": planning anew"})
			last = nil
		case errors.As(err, &refused):
			p.Refused = append(p.Refused, refused.Refusal)
			return r.finish(ctx, p, nil)
		default:
			return r.finish(ctx, p, err)
		}
	}
	return r.finish(ctx, p, nil)
}

// settleEarlier sees to what earlier runs have left that needs no plan: a frozen guest,
// states that are seen to be lost, an intent that has nothing left to do.
func (r *domainRun) settleEarlier(ctx context.Context, p *decide.Plan) error {
	if err := r.resume(ctx, p.Domain); err != nil {
		return err
	}
	r.thaw(ctx, p.Domain)
	if d := r.w.Domain(p.Domain); d != nil {
		if err := errors.Join(r.noteLost(d), r.noteReverts(d), r.settleMemory(d)); err != nil {
			return err
		}
	}
	if p.Forget {
		return r.endIntent(r.w.Domain(p.Domain))
	}
	return nil
}

// ask is what the run may ask about a domain as it is now.
func (r *domainRun) ask(d *host.Domain) decide.Case {
	return decide.Case{World: r.w, Domain: d, Rule: r.rule, Now: r.Clock(), Options: r.o}
}

// skipped tells whether the policy leaves the domain alone in its present state.
func (r *domainRun) skipped(domain string) bool {
	d := r.w.Domain(domain)
	return d != nil && !d.State.Live() && r.rule.Offline == policy.OfflineSkip
}

// thaw thaws a guest that an interrupted run may have left frozen. While that
// cannot be done, the intent keeps it in mind.
func (r *domainRun) thaw(ctx context.Context, domain string) {
	d := r.w.Domain(domain)
	in := r.w.Intents[d.UUID]
	if in == nil || !in.Quiesce || !d.State.Live() {
		return
	}
	if err := r.Host.Thaw(ctx, domain); err != nil {
		r.frozen = true
		r.warn(domain, "an earlier run may have left the guest's file systems frozen (virsh domfsthaw "+domain+"): "+err.Error())
	}
}

// again looks at the domain and decides afresh.
func (r *domainRun) again(ctx context.Context, name string) (decide.Plan, error) {
	if err := r.look(ctx, name, maxAge); err != nil {
		return decide.Plan{Domain: name, Policy: r.rule.Name}, err
	}
	d := r.w.Domain(name)
	if d == nil {
		return decide.Plan{Domain: name, Policy: r.rule.Name}, fmt.Errorf("%s: %w", name, errGone)
	}
	return r.decide(r.w, d, r.rule, r.Clock(), r.o), nil
}

// look renews the view of the domain, and of the whole host when that is older than age.
func (r *domainRun) look(ctx context.Context, name string, age time.Duration) error {
	w, err := r.lookAround(ctx, name, age)
	if err == nil {
		r.w = w
		r.tellFaults(w.FaultsOf(name)...)
	}
	return err
}

// lookAround takes what another domain's run has seen of the host, if that is not older than
// age: with hundreds of guests each would else look at all the others.
func (r *domainRun) lookAround(ctx context.Context, name string, age time.Duration) (*observe.World, error) {
	if !fresh(r.seen, r.Clock(), age) {
		w, seen, mine, err := r.latest.within(r.Clock, age, func() (*observe.World, error) { return r.Observer.Observe(ctx) })
		if err != nil {
			return nil, err
		}
		if r.w, r.seen = w, seen; mine {
			return w, nil
		}
	}
	return r.Observer.Again(ctx, r.w, name)
}

// finish turns the last plan into the report of the run.
func (r *domainRun) finish(ctx context.Context, p decide.Plan, err error) decide.Plan {
	p.Steps, p.Groups = r.done, nil
	if p.Steps == nil {
		p.Steps = []decide.Step{}
	}
	switch {
	case ctx.Err() != nil:
		p.Result, p.Error = decide.ResultCanceled, canceledText(err)
	case err != nil:
		p.Result, p.Error = decide.ResultFailed, err.Error()
	case len(p.Refused) > 0 && len(p.Steps) > 0:
		p.Result = decide.ResultPartly
	case len(p.Refused) > 0:
		p.Result = decide.ResultRefused
	case len(p.Steps) > 0:
		p.Result = decide.ResultDone
	case p.Result == "" || p.Result == decide.ResultPlanned:
		p.Result = decide.ResultNothing
	}
	return p
}

func canceledText(err error) string {
	text := "interrupted; the chain is valid, and the next run goes on from here"
	if err != nil && !errors.Is(err, context.Canceled) {
		text += " (" + err.Error() + ")"
	}
	return text
}

// did notes a step that is done.
func (r *domainRun) did(domain string, s decide.Step) {
	r.done = append(r.done, s)
	r.Report(Event{Kind: EventDone, Domain: domain, Step: s})
	r.boundary("after " + string(s.Op))
}

func (r *domainRun) starts(domain string, s decide.Step) {
	r.boundary("before " + string(s.Op))
	r.Report(Event{Kind: EventStep, Domain: domain, Step: s})
}

// storageLocks lets one merge at a time work on a file system.
type storageLocks struct {
	mu    sync.Mutex // guards locks
	locks map[uint64]chan struct{}

	blocked func() (unblocked func()) // tests want to know of who waits; nil in a real run
}

// take waits for the file system; the returned function gives it back.
func (s *storageLocks) take(ctx context.Context, fs uint64) (func(), error) {
	s.mu.Lock()
	if s.locks == nil {
		s.locks = map[uint64]chan struct{}{}
	}
	lock := s.locks[fs]
	if lock == nil {
		lock = make(chan struct{}, 1)
		s.locks[fs] = lock
	}
	s.mu.Unlock()
	if s.blocked != nil && len(lock) == cap(lock) {
		defer s.blocked()()
	}
	select {
	case lock <- struct{}{}:
		return func() { <-lock }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
