//go:build cgo

package libvirthost

import (
	"context"
	"errors"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"libvirt.org/go/libvirt"
)

// A Looker is a connection that cannot change anything, for commands that only tell. Unlike a Host it need not ask
// for each snapshot: what an earlier look was told is kept in a file, as long as libvirt would tell the same.
type Looker struct{ h *Host }

// OpenToLook connects to libvirt as Open does. File is where what is told of snapshots is kept; "" for nowhere.
func OpenToLook(uri, file string) (*Looker, error) {
	h, err := open(uri)
	if err != nil {
		return nil, err
	}
	actual, err := h.conn.GetURI()
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	if !h.remote && !h.embedded {
		h.told = openTold(file, actual, h.version)
	}
	return &Looker{h}, nil
}

// Close ends the connection.
func (l *Looker) Close() error {
	l.h.told.Save(false)
	return l.h.Close()
}

// Remote tells whether the host's files are out of this process's reach.
func (l *Looker) Remote() bool { return l.h.Remote() }

// Domains returns the named domains, or all; a name that the host does not have is left out.
func (l *Looker) Domains(ctx context.Context, names ...string) ([]host.Domain, error) {
	domains, err := l.h.Domains(ctx, names...)
	if err == nil && len(names) == 0 {
		l.h.told.Save(true)
	}
	return domains, err
}

// Pools returns the directories of the active storage pools.
func (l *Looker) Pools(ctx context.Context) ([]string, error) { return l.h.Pools(ctx) }

// QEMUChains asks the QEMU of a running domain for the chains of its disks.
func (l *Looker) QEMUChains(ctx context.Context, domain string) (map[string][]string, error) {
	return l.h.QEMUChains(ctx, domain)
}

// readSnapshots adds the snapshots to d, from what earlier looks were told where that still holds.
func (h *Host) readSnapshots(d *host.Domain, snaps []libvirt.DomainSnapshot, current string, v *volumes) error {
	names := make([]string, len(snaps))
	for i := range snaps {
		names[i], _ = snaps[i].GetName() // "" proves nothing
	}
	before := h.told.Look(d.Name, names)
	if t, known := h.told.Known(d.Name, d.UUID, before); known && t.addTo(d, names, current, v) {
		return nil
	}
	named, err := askSnapshots(d, snaps, current, v)
	if err == nil && h.told != nil {
		h.told.Learn(d.Name, d.UUID, before, tell(named))
		h.told.SaveNowAndThen()
	}
	return err
}

// askSnapshots asks for the metadata of each, and adds it to d.
func askSnapshots(d *host.Domain, snaps []libvirt.DomainSnapshot, current string, v *volumes) (named []*namedSnapshot, err error) {
	var errs []error
	for i := range snaps {
		text, err := snaps[i].GetXMLDesc(0)
		if errors.Is(err, libvirt.ERR_NO_DOMAIN_SNAPSHOT) {
			continue
		}
		var s *namedSnapshot
		if err == nil {
			s, err = addSnapshot(d, text, current, v)
		}
		named, errs = append(named, s), append(errs, err)
	}
	return named, errors.Join(errs...)
}
