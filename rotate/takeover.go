package rotate

import (
	"context"
	"errors"
	"fmt"

	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// TakeOver makes a domain this host's on all storages that its layers lie on, by a person's
// word: another host had it, and that is over. down names a host of which the person says that it
// is down. It is done by telling so with a higher epoch, storage by storage: after a crash between
// two, doing it again finishes it. The caller holds the Lock.
func (r *Rotator) TakeOver(ctx context.Context, domain, down string, plan bool) (decide.Plan, error) {
	w, err := r.Observer.Observe(ctx)
	if err != nil {
		return decide.Plan{}, err
	}
	d := w.Domain(domain)
	if d == nil {
		return decide.Plan{}, w.NoSuchDomain(domain)
	}
	p, epoch := r.planTakeover(w, d, down)
	if plan || len(p.Steps) == 0 {
		return p, nil
	}
	return r.takeOver(ctx, w, d, p, epoch), nil
}

// planTakeover says whether that may be, and with what epoch.
func (r *Rotator) planTakeover(w *observe.World, d *host.Domain, down string) (decide.Plan, uint64) {
	p := decide.Plan{Domain: d.Name, State: d.State, Steps: []decide.Step{}, Refused: []decide.Refusal{}}
	epoch, err := r.Observer.Adoptable(w, d, down)
	if err == nil {
		err = writtenElsewhere(d)
	}
	if why := w.Whose[d.UUID].Why; err != nil {
		p.Refused = append(p.Refused, decide.Refusal{Code: host.CodeElsewhere, Detail: err.Error()})
	} else if why != "" {
		p.Steps = append(p.Steps, decide.Step{Op: decide.OpTakeOver, Reason: fmt.Sprintf("%s; from epoch %d on it is this host's", why, epoch)})
	}
	p.Settle()
	return p, epoch
}

func (r *Rotator) takeOver(ctx context.Context, w *observe.World, d *host.Domain, p decide.Plan, epoch uint64) decide.Plan {
	p.Result = decide.ResultDone
	r.boundary("before the takeover")
	err := r.Observer.Tell(ctx, w, observe.News{Adopted: map[string]uint64{d.UUID: epoch}})
	if err == nil {
		err = r.tookOver(ctx, d)
	}
	if err != nil {
		p.Result, p.Error = decide.ResultFailed, err.Error()
	}
	return p
}

// tookOver sees that the others find it so.
func (r *Rotator) tookOver(ctx context.Context, d *host.Domain) error {
	w, err := r.Observer.Observe(ctx)
	if err != nil {
		return err
	}
	if v := w.Whose[d.UUID]; v.Why != "" {
		return errors.New(v.Why)
	}
	for i := range w.Shares {
		if s := &w.Shares[i]; s.Problem != "" && s.View.Mine.Guest(d.UUID) == nil {
			return errors.New(s.Problem)
		}
	}
	return nil
}

// writtenElsewhere tells of a guest that is off here, and whose images somebody writes to.
func writtenElsewhere(d *host.Domain) error {
	for i := range d.Disks {
		for _, l := range d.Disks[i].Chain {
			if !d.State.Live() && l.Use.Write {
				return fmt.Errorf("the guest is off here, and a process writes to %s: it runs on another host", l.Path)
			}
		}
	}
	return nil
}
