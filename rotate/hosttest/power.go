package hosttest

import (
	"context"
	"errors"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

func (h *Host) Shutdown(_ context.Context, domain string, force bool) error {
	return h.call("shutdown", func() error {
		if d := h.Find(domain); force || d.Obeys {
			d.State = host.ShutOff
		}
		return nil
	})
}

func (h *Host) Start(_ context.Context, domain string) error {
	return h.call("start", func() error {
		d := h.Find(domain)
		if d.DoesNotStart {
			return errors.New("the guest does not start")
		}
		d.State = host.Running
		return nil
	})
}

// Resume lets the guest go on.
func (h *Host) Resume(_ context.Context, domain string) error {
	return h.call("resume", func() error {
		if d := h.Find(domain); d.State == host.Paused {
			d.State = host.Running
		}
		return nil
	})
}

func (h *Host) Active(_ context.Context, domain string) (bool, error) {
	return h.Starting || h.Find(domain).State.Live(), nil
}
