package rotate

import (
	"context"
	"fmt"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// tellFaults tells of faults, with where they were.
func (r *Rotator) tellFaults(faults ...*host.Fault) {
	for _, f := range faults {
		r.Report(Event{Kind: EventFault, Domain: f.Domain, Text: fmt.Sprintf("%v\n%s", f, f.Stack)})
	}
}

// decide is Decide; a fault in it makes a plan that has failed.
func (r *Rotator) decide(w *observe.World, d *host.Domain, rule *policy.Rule, now time.Time, o decide.Options) (p decide.Plan) {
	if f := host.Contain(d.Name, func() { p = decide.Decide(w, d, rule, now, o) }); f != nil {
		r.tellFaults(f)
		return decide.FailedPlan(d, rule, f)
	}
	return p
}

// contained works on the domain. A fault in that is the domain's failure; what its
// snapshot had frozen is thawed, or kept in mind.
func (r *domainRun) contained(ctx context.Context, p decide.Plan) (done decide.Plan) {
	f := host.Contain(p.Domain, func() { done = r.run(ctx, p) })
	if f != nil {
		r.tellFaults(f)
		done = r.finish(ctx, p, f)
		if again := host.Contain(p.Domain, func() { r.thawAfter(context.WithoutCancel(ctx), p.Domain) }); again != nil {
			r.tellFaults(again)
		}
	}
	if again := host.Contain(p.Domain, func() { done = r.ended(ctx, done) }); again != nil {
		r.tellFaults(again)
		done = r.finish(ctx, done, again)
	}
	return done
}

// thawAfter thaws a guest that the work on it has left frozen. Its intent, which
// stays, lets the next run try again.
func (r *domainRun) thawAfter(ctx context.Context, domain string) {
	d := r.w.Domain(domain)
	if d == nil {
		return
	}
	in, err := journal.In(r.Observer.StateDir).Read(d.UUID)
	if err != nil || !in.Quiesce {
		return
	}
	if err := r.Host.Thaw(ctx, domain); err != nil {
		r.warn(domain, "the guest's file systems may be frozen (virsh domfsthaw "+domain+"): "+err.Error())
	}
}
