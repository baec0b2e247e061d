//go:build cgo

package libvirthost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"libvirt.org/go/libvirt"
)

// Mover is the host itself.
func (h *Host) Mover() host.Mover { return h }

// farPatience is how long another host may take to answer.
const farPatience = 30 * time.Second

// Far connects to another host's libvirt, within farPatience; a connection that comes later is
// left behind. One that is lost ends soon.
func (h *Host) Far(ctx context.Context, uri string) (host.Far, error) {
	type result struct {
		h   *Host
		err error
	}
	done := make(chan result, 1)
	go func() {
		far, err := Open(uri)
		if err == nil {
			_ = far.conn.SetKeepAlive(5, 3) // seconds; a driver without keeps what it has
		}
		done <- result{far, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, r.err
		}
		return r.h, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(farPatience):
		return nil, fmt.Errorf("libvirt at %s does not answer within %s", uri, farPatience)
	}
}

// Stand tells what this host has of that name, and of that UUID.
func (h *Host) Stand(_ context.Context, name, uuid string) (s host.Stand, err error) {
	defer plain(&err)
	if s.Host, err = h.conn.GetHostname(); err != nil {
		return s, err
	}
	if s.NameTaken, err = h.otherNamed(name, uuid); err != nil {
		return s, err
	}
	dom, err := h.conn.LookupDomainByUUIDString(uuid)
	if gone(err) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	defer dom.Free()
	if s.Name, err = dom.GetName(); err != nil {
		return s, err
	}
	var d host.Domain
	if err := errors.Join(readState(dom, &d), observeBusy(dom, &d)); err != nil {
		return s, err
	}
	persistent, err := dom.IsPersistent()
	if err != nil {
		return s, err
	}
	s.State = d.State
	s.Settled = persistent && d.Busy == "" && slices.Contains([]host.State{host.Running, host.Paused, host.ShutOff}, d.State)
	s.Snapshots, err = snapshotsOf(dom)
	return s, err
}

// otherNamed is the UUID of another domain that has the name; "" for none.
func (h *Host) otherNamed(name, uuid string) (string, error) {
	dom, err := h.conn.LookupDomainByName(name)
	if gone(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer dom.Free()
	other, err := dom.GetUUIDString()
	if other == uuid {
		other = ""
	}
	return other, err
}

func snapshotsOf(dom *libvirt.Domain) (names []string, err error) {
	snaps, err := dom.ListAllSnapshots(libvirt.DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)
	for i := range snaps {
		name, failed := snaps[i].GetName()
		err = errors.Join(err, failed, snaps[i].Free())
		names = append(names, name)
	}
	return names, err
}

// Texts returns the metadata of all snapshots, with their secrets, parents before children.
func (h *Host) Texts(_ context.Context, uuid string) (all []host.SnapshotText, err error) {
	defer plain(&err)
	dom, err := h.conn.LookupDomainByUUIDString(uuid)
	if err != nil {
		return nil, err
	}
	defer dom.Free()
	kept, err := keptSnapshots(dom)
	for _, k := range kept {
		all = append(all, host.SnapshotText{Name: k.name, XML: k.text, Current: k.current})
	}
	return all, err
}

// DefineSnapshots makes libvirt have those of the snapshots that it does not have. The one that was the current one is so
// again, unless somebody has taken another since.
func (h *Host) DefineSnapshots(_ context.Context, uuid string, snapshots []host.SnapshotText) (err error) {
	defer plain(&err)
	dom, err := h.conn.LookupDomainByUUIDString(uuid)
	if err != nil {
		return err
	}
	defer dom.Free()
	have, err := snapshotsOf(dom)
	if err != nil {
		return err
	}
	current, err := currentOf(dom)
	if err != nil {
		return err
	}
	newer := current != "" && !slices.ContainsFunc(snapshots, func(t host.SnapshotText) bool { return t.Name == current })
	for _, t := range snapshots {
		if slices.Contains(have, t.Name) {
			continue
		}
		if err := defineSnapshot(dom, keptSnapshot{t.Name, t.XML, t.Current && !newer}); err != nil {
			return fmt.Errorf("snapshot %s: %w", t.Name, err)
		}
	}
	have, err = snapshotsOf(dom)
	for _, t := range snapshots {
		if err == nil && !slices.Contains(have, t.Name) {
			err = fmt.Errorf("snapshot %s: libvirt has another one instead", t.Name)
		}
	}
	return err
}

// currentOf is the name of the current snapshot; "" for none.
func currentOf(dom *libvirt.Domain) (string, error) {
	snap, err := dom.SnapshotCurrent(0)
	if errors.Is(err, libvirt.ERR_NO_DOMAIN_SNAPSHOT) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer snap.Free()
	return snap.GetName()
}

// Migrate lets virsh move the guest: so each option of it can be had. The two libvirt daemons see it
// through between themselves (--p2p), whatever becomes of virsh and of this process. When ctx ends virsh is
// interrupted, which has libvirt end the migration.
func (h *Host) Migrate(ctx context.Context, m host.Migration) (err error) {
	defer plain(&err)
	uri, err := h.conn.GetURI()
	if err != nil {
		return err
	}
	args := []string{"--quiet", "--connect", uri, "migrate", "--persistent", "--undefinesource", "--p2p", "--domain=" + m.UUID, "--desturi=" + m.To}
	if m.Offline {
		args = append(args, "--offline")
	} else {
		args = append(args, "--live")
	}
	cmd := exec.CommandContext(ctx, "virsh", append(args, m.Options...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("virsh migrate: %w: %s", err, reason(said.String()))
	}
	return nil
}

// CanMigrate tells whether Migrate can be called at all.
func CanMigrate() error {
	if _, err := exec.LookPath("virsh"); err != nil {
		return fmt.Errorf("virsh moves the guest, and is not installed (package libvirt-clients of Debian, libvirt-client elsewhere): %w", err)
	}
	return nil
}

// mostReason is how much of what virsh says is told, in bytes.
const mostReason = 4096

// reason is what virsh says of an error, without what it puts before each line.
func reason(said string) string {
	said = said[max(0, len(said)-mostReason):]
	var lines []string
	for line := range strings.Lines(said) {
		if line = strings.TrimPrefix(strings.TrimSpace(line), "error: "); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}
