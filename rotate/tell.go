package rotate

import (
	"cmp"
	"context"
	"fmt"

	"github.com/virt-rotate/virt-rotate/rotate/coord"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// atWork tells the hosts that have the same storages what this one uses of them, and that it is
// at work, before anything is decided for good. leave ends that; it tells once more, if changed
// says so, or how a run has ended. What could not be told stops merges, and is told by them.
func (r *Rotator) atWork(ctx context.Context, w *observe.World) (leave func(changed bool, ran *coord.Ran), err error) {
	o := r.Observer
	if o.Fleet == nil || w.Remote || len(o.Fleet.All()) == 0 {
		return func(bool, *coord.Ran) {}, nil
	}
	if err := o.Tell(ctx, w, observe.News{}); err != nil {
		return nil, err
	}
	gone := o.Fleet.Enter(ctx)
	if r.lookForLocks(ctx) {
		err = o.Tell(ctx, w, observe.News{})
	}
	return func(changed bool, ran *coord.Ran) {
		if changed || ran != nil {
			r.tellAgain(context.WithoutCancel(ctx), observe.News{Ran: ran})
		}
		gone()
	}, err
}

// lookForLocks finds out whether locks reach the hosts that are at work; it tells whether that
// is news.
func (r *Rotator) lookForLocks(ctx context.Context) (news bool) {
	for _, s := range r.Observer.Fleet.All() {
		v, err := s.View(ctx)
		if err != nil {
			continue // told by whoever wants to merge there
		}
		found, err := s.Locks(ctx)
		news = news || err == nil && found != coord.CrossingUnknown && found != v.Locks
	}
	return news
}

// tellChanged tells the other hosts once something was done outside of a run.
func (r *Rotator) tellChanged(ctx context.Context, done []decide.Step) {
	if len(done) > 0 && len(r.Observer.Fleet.All()) > 0 {
		r.tellAgain(context.WithoutCancel(ctx), observe.News{})
	}
}

// tellAgain tells how the layers are now: a host that takes a guest over sees by that whether its
// definition is an old one. Where it fails, what was told before the run is believed, which
// keeps more than is needed.
func (r *Rotator) tellAgain(ctx context.Context, news observe.News) {
	if w, err := r.Observer.Observe(ctx); err == nil {
		_ = r.Observer.Tell(ctx, w, news)
	}
}

// tellTops tells the others at once that the guest writes to another layer now: by what they were told last, they see
// whether a definition is an old one.
func (r *domainRun) tellTops(ctx context.Context, d *host.Domain) {
	if !r.Observer.TopsTold(r.w, d) {
		_ = r.leave(d, r.intentNow(d), nil)
		r.Observer.TellGuest(ctx, r.w, d) // what could not be told is told again as the run ends
	}
}

// Disclose tells the other hosts anew what this one uses, and whether its guests ask before they start; but not while one of
// them merges: then it returns that in words. The caller holds the Lock.
func (r *Rotator) Disclose(ctx context.Context) (busy string, err error) {
	w, err := r.Observer.Observe(ctx)
	if err != nil {
		return "", err
	}
	for _, in := range w.Intents {
		if in.Lasting() || in.Broken != "" {
			return "a run here was cut off as it worked on guest " + host.Quoted(in.Domain) + ": let virt-rotate run once", nil
		}
	}
	if busy = others(w, workOf); busy != "" {
		return busy, nil
	}
	if err = r.Observer.Tell(ctx, w, observe.News{}); err == nil {
		w, err = r.Observer.Observe(ctx) // who has begun before that was told
	}
	if err != nil {
		return "", err
	}
	return others(w, func(s *observe.Share) string { return cmp.Or(untold(s), workOf(s)) }), nil
}

// others is the first of what is found on a storage of other hosts.
func others(w *observe.World, find func(*observe.Share) string) (found string) {
	for i := range w.Shares {
		if found = find(&w.Shares[i]); found != "" {
			break
		}
	}
	return found
}

// untold tells that the hosts of a storage still rely on what this one has told before.
func untold(s *observe.Share) string {
	if s.View.Mine.Asks || !s.View.Registered && s.Problem != "" {
		return fmt.Sprintf("the hosts of %s cannot be told (%s)", s.Dir, s.Problem)
	}
	return ""
}

// workOf tells what another host merges on a storage, or why that is not known; "" for nothing.
func workOf(s *observe.Share) string {
	for i := range s.View.Peers {
		p := &s.View.Peers[i]
		if p.Problem != "" && p.ID != coord.Signpost {
			return fmt.Sprintf("what host %s does on %s cannot be read: %s", p.Name, s.Dir, p.Problem)
		}
		if len(p.Told.Merging) > 0 {
			return fmt.Sprintf("host %s merges layers of guest %s", p.Name, p.Told.Merging[0].Name)
		}
	}
	return ""
}

// tellWork holds starts of guests back on the other hosts that need what is about to be merged or deleted: see coord.Begin.
func (r *domainRun) tellWork(ctx context.Context) error {
	if err := r.Observer.TellWork(ctx, r.w); err != nil {
		return fmt.Errorf("%w: %w", decide.ErrNoLonger, err)
	}
	r.boundary("the others know of the work")
	return nil
}

// workDone tells what is left to do. While that cannot be told, starts are held back as before.
func (r *domainRun) workDone(ctx context.Context) {
	_ = r.Observer.TellWork(context.WithoutCancel(ctx), r.w)
}

// ran is what the other hosts are told of a run of all domains by the clock; nil of any other.
func (r *Rotator) ran(names []string, plans []decide.Plan) *coord.Ran {
	if len(names) > 0 || r.Options.ByHand != nil {
		return nil
	}
	s := decide.Summarize(plans)
	ran := coord.Ran{End: r.Clock(), Domains: s.Domains, Refused: s.Refused, Failed: s.Failed}
	for i := range plans {
		if plans[i].MergesWait {
			ran.Waiting++
		}
	}
	return &ran
}
