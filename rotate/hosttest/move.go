package hosttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// A Move is what a host does with guests that move.
type Move struct {
	Hosts  map[string]*Host // other hosts, by URI
	Fails  error            // libvirt does not move guests
	Silent bool             // the other hosts do not answer
	Leaves bool             // a definition stays behind, as if nobody had asked libvirt for its end
}

func (h *Host) byUUID(uuid string) *Domain {
	for _, d := range h.Guests {
		if d.UUID == uuid {
			return d
		}
	}
	return nil
}

// Texts has the snapshots as JSON.
func (h *Host) Texts(_ context.Context, uuid string) (all []host.SnapshotText, err error) {
	err = h.call("texts", func() error {
		for _, s := range h.byUUID(uuid).Observed(nil).Snapshots {
			text, err := json.Marshal(s)
			Must(err)
			all = append(all, host.SnapshotText{Name: s.Name, XML: string(text), Current: s.Current})
		}
		return nil
	})
	return all, err
}

// DefineSnapshots writes one snapshot after the other, as libvirt does.
func (h *Host) DefineSnapshots(_ context.Context, uuid string, snapshots []host.SnapshotText) error {
	for i := range snapshots {
		if err := h.call("define", func() error { return h.defineOne(uuid, &snapshots[i]) }); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) defineOne(uuid string, t *host.SnapshotText) error {
	d := h.byUUID(uuid)
	if d == nil {
		return errors.New("domain not found")
	}
	var s host.Snapshot
	if err := json.Unmarshal([]byte(t.XML), &s); err != nil || s.Name != t.Name {
		return fmt.Errorf("snapshot %s: %w", t.Name, err)
	}
	switch {
	case d.Snapshot(s.Name) != nil:
		return nil
	case s.Parent != "" && d.Snapshot(s.Parent) == nil:
		return fmt.Errorf("parent %s for snapshot %s not found", s.Parent, s.Name) // libvirt's words
	}
	for k := range d.Snapshots {
		d.Snapshots[k].Current = d.Snapshots[k].Current && !s.Current
	}
	d.Snapshots = append(d.Snapshots, s)
	return nil
}

// Migrate moves the domain at once.
func (h *Host) Migrate(_ context.Context, m host.Migration) error {
	return h.call("migrate", func() error {
		d, to := h.byUUID(m.UUID), h.Move.Hosts[m.To]
		if h.Move.Fails != nil {
			return h.Move.Fails
		}
		if n := len(d.Snapshots); n > 0 {
			return fmt.Errorf("cannot migrate domain with %d snapshots", n) // libvirt's words
		}
		there := *d
		to.Guests = append(slices.DeleteFunc(to.Guests, func(old *Domain) bool { return old.UUID == m.UUID }), &there)
		if h.Move.Leaves {
			d.State = host.ShutOff
			return nil
		}
		h.Guests = slices.DeleteFunc(h.Guests, func(old *Domain) bool { return old == d })
		return nil
	})
}

// A far host is seen from another.
type far struct{ *Host }

func (far) Close() error { return nil }

// Far is one of h.Move.Hosts.
func (h *Host) Far(_ context.Context, uri string) (host.Far, error) {
	if h.Move.Silent || h.Move.Hosts[uri] == nil {
		return nil, errors.New("connection refused")
	}
	return far{h.Move.Hosts[uri]}, nil
}

// Stand tells how the guest is.
func (f far) Stand(_ context.Context, name, uuid string) (host.Stand, error) {
	s := host.Stand{Host: "other"}
	if d := f.Find(name); d != nil && d.UUID != uuid {
		s.NameTaken = d.UUID
	}
	if d := f.byUUID(uuid); d != nil {
		s.Name, s.State, s.Settled = d.Name, d.State, !d.Transient && d.Busy == ""
		for i := range d.Snapshots {
			s.Snapshots = append(s.Snapshots, d.Snapshots[i].Name)
		}
	}
	return s, nil
}
