package rotate

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
)

// A Fault is a panic in the work on one domain: a fault of virt-rotate itself. It is that
// domain's failure; the work on the others goes on.
type Fault struct {
	Domain string
	Value  any
	Stack  []byte
}

func (f *Fault) Error() string {
	return fmt.Sprintf("a fault of virt-rotate itself, please report it: %v", f.Value)
}

// Contain does something for a domain. A panic in it becomes a *Fault.
func Contain(domain string, do func()) (fault *Fault) {
	defer func() {
		if v := recover(); v != nil {
			fault = &Fault{domain, v, debug.Stack()}
		}
	}()
	do()
	return nil
}

// faulty notes a fault in looking at a domain. Whatever it names counts as in use then.
func (w *World) faulty(d *Domain, f *Fault) {
	if f == nil {
		return
	}
	if d.Problem == "" {
		d.Problem = f.Error()
	}
	w.Faults = append(w.Faults, f)
}

// faultsOf lists the faults in looking at one domain.
func (w *World) faultsOf(domain string) []*Fault {
	return slices.DeleteFunc(slices.Clone(w.Faults), func(f *Fault) bool { return f.Domain != domain })
}

// named lists every path that is known of a domain, in whatever role.
func (d *Domain) named() []string {
	list := append([]string{}, d.Elsewhere...)
	for i := range d.Disks {
		list = append(append(list, paths(d.Disks[i].Chain)...), d.Disks[i].Inactive...)
	}
	for i := range d.Snapshots {
		for _, sd := range d.Snapshots[i].Disks {
			list = append(append(append(list, sd.State...), sd.Inactive...), sd.Overlay)
		}
	}
	return list
}

// keepNamed keeps all that a domain names which could not be looked at in full: what
// of it the domain needs is not known.
func (w *World) keepNamed(d *Domain) {
	for _, path := range d.named() {
		if path != "" {
			w.Forest.Add(w.key(path), path).Keep("domain " + d.Name + ", which could not be looked at in full")
		}
	}
}

// tellFaults tells of faults, with where they were.
func (r *Rotator) tellFaults(faults ...*Fault) {
	for _, f := range faults {
		r.Report(Event{Kind: EventFault, Domain: f.Domain, Text: fmt.Sprintf("%v\n%s", f, f.Stack)})
	}
}

// decide is Decide; a fault in it makes a plan that has failed.
func (r *Rotator) decide(w *World, d *Domain, rule *policy.Rule, now time.Time, o Options) (p Plan) {
	if f := Contain(d.Name, func() { p = Decide(w, d, rule, now, o) }); f != nil {
		r.tellFaults(f)
		return failedPlan(d, rule, f)
	}
	return p
}

func failedPlan(d *Domain, rule *policy.Rule, err error) Plan {
	return Plan{Domain: d.Name, Policy: rule.Name, State: d.State, Steps: []Step{}, Refused: []Refusal{},
		Result: ResultFailed, Error: err.Error()}
}

// contained works on the domain. A fault in that is the domain's failure; what its
// snapshot had frozen is thawed, or kept in mind.
func (r *domainRun) contained(ctx context.Context, p Plan) (done Plan) {
	f := Contain(p.Domain, func() { done = r.run(ctx, p) })
	if f != nil {
		r.tellFaults(f)
		done = r.finish(ctx, p, f)
		if again := Contain(p.Domain, func() { r.thawAfter(context.WithoutCancel(ctx), p.Domain) }); again != nil {
			r.tellFaults(again)
		}
	}
	if again := Contain(p.Domain, func() { done = r.ended(ctx, done) }); again != nil {
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
	in, err := newJournal(r.Observer.StateDir).read(d.UUID)
	if err != nil || !in.Quiesce {
		return
	}
	if err := r.Host.Thaw(ctx, domain); err != nil {
		r.warn(domain, "the guest's file systems may be frozen (virsh domfsthaw "+domain+"): "+err.Error())
	}
}
