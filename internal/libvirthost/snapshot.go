//go:build cgo

package libvirthost

import (
	"context"
	"errors"
	"fmt"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"libvirt.org/go/libvirt"
)

// agentTimeout bounds, in seconds, how long a guest agent may take to freeze or thaw:
// its hooks and unwritten data take their time, and a freeze that is given up can still
// come, with nobody left to thaw. An agent that says nothing at all costs 5 s, libvirt's
// own bound; without ours, one that hangs in freeze would block every other call on the
// domain.
const agentTimeout = 60

// boundAgent sets agentTimeout. The returned function lifts it again: it would hold for
// other programs as well.
func boundAgent(dom *libvirt.Domain) (lift func(), err error) {
	err = dom.AgentSetResponseTimeout(agentTimeout, 0)
	if errors.Is(err, libvirt.ERR_NO_SUPPORT) {
		return func() {}, nil
	}
	return func() { _ = dom.AgentSetResponseTimeout(int(libvirt.DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK), 0) }, err
}

// Snapshot takes a disk-only external snapshot: all disks or none. libvirt
// thaws what it froze, whether the snapshot succeeds or not.
func (h *Host) Snapshot(_ context.Context, domain string, spec host.SnapshotSpec) (err error) {
	defer plain(&err)
	dom, err := h.domain(domain)
	if err != nil {
		return err
	}
	defer dom.Free()
	text, err := snapshotXML(spec)
	if err != nil {
		return err
	}
	flags := libvirt.DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.DOMAIN_SNAPSHOT_CREATE_ATOMIC
	if spec.Quiesce {
		lift, err := boundAgent(dom)
		if err != nil {
			return err
		}
		defer lift()
		flags |= libvirt.DOMAIN_SNAPSHOT_CREATE_QUIESCE
	}
	before := configurationOff(dom)
	snap, err := dom.CreateSnapshotXML(text, flags)
	if err != nil {
		return err
	}
	h.renameVolumes(dom, before)
	return snap.Free()
}

// configurationOff is the persistent configuration of a guest that is off; "" of one that
// runs, for which libvirt keeps what volumes are called.
func configurationOff(dom *libvirt.Domain) string {
	if active, err := dom.IsActive(); err != nil || active {
		return ""
	}
	text, err := dom.GetXMLDesc(libvirt.DOMAIN_XML_INACTIVE | libvirt.DOMAIN_XML_SECURE)
	if err != nil {
		return ""
	}
	return text
}

// renameVolumes names as volumes again what was named so before a snapshot. Where that
// cannot be written, the chain is right all the same: its headers name the files.
func (h *Host) renameVolumes(dom *libvirt.Domain, before string) {
	if before == "" {
		return
	}
	after, err := dom.GetXMLDesc(libvirt.DOMAIN_XML_INACTIVE | libvirt.DOMAIN_XML_SECURE)
	if err != nil {
		return
	}
	if fixed, err := keepVolumes(before, after); err == nil && fixed != "" {
		_ = h.redefine(fixed) // see above
	}
}

// Thaw thaws the guest's file systems; thawed ones are no error.
func (h *Host) Thaw(_ context.Context, domain string) (err error) {
	defer plain(&err)
	dom, err := h.domain(domain)
	if err != nil {
		return err
	}
	defer dom.Free()
	lift, err := boundAgent(dom)
	if err != nil {
		return err
	}
	defer lift()
	return dom.FSThaw(nil, 0)
}

// DropMetadata makes libvirt forget the snapshot; one that is not there is no
// error. libvirt gives its children to its parent.
func (h *Host) DropMetadata(_ context.Context, domain, snapshot string) (err error) {
	defer plain(&err)
	dom, err := h.domain(domain)
	if err != nil {
		return err
	}
	defer dom.Free()
	snap, err := dom.SnapshotLookupByName(snapshot, 0)
	if errors.Is(err, libvirt.ERR_NO_DOMAIN_SNAPSHOT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer snap.Free()
	return snap.Delete(libvirt.DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)
}

// KeepMetadata reads the metadata of all snapshots, parents before children; putBack
// makes libvirt have it again, whatever has become of it meanwhile.
func (h *Host) KeepMetadata(_ context.Context, domain string) (putBack func() error, err error) {
	defer plain(&err)
	dom, err := h.domain(domain)
	if err != nil {
		return nil, err
	}
	defer dom.Free()
	kept, err := keptSnapshots(dom)
	return func() error { return h.putBack(domain, kept) }, err
}

func keptSnapshots(dom *libvirt.Domain) (kept []keptSnapshot, err error) {
	snaps, err := dom.ListAllSnapshots(libvirt.DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)
	for i := range snaps {
		name, failed := snaps[i].GetName()
		text, failed2 := snaps[i].GetXMLDesc(libvirt.DOMAIN_SNAPSHOT_XML_SECURE)
		current, failed3 := snaps[i].IsCurrent(0)
		err = errors.Join(err, failed, failed2, failed3, snaps[i].Free())
		kept = append(kept, keptSnapshot{name, text, current})
	}
	return kept, err
}

// A keptSnapshot is the metadata of one.
type keptSnapshot struct {
	name, text string
	current    bool
}

func (h *Host) putBack(domain string, kept []keptSnapshot) (err error) {
	defer plain(&err)
	dom, err := h.domain(domain)
	if err != nil {
		return err
	}
	defer dom.Free()
	for _, k := range kept {
		if err := defineSnapshot(dom, k); err != nil {
			return err
		}
	}
	return nil
}

// defineSnapshot makes libvirt have the metadata; what is current stays so, unless this one
// is to be. One that is current already is not said to be: libvirt takes that for a new
// snapshot on top of it, and forgets what files its own revert has made (revertDisks).
func defineSnapshot(dom *libvirt.Domain, k keptSnapshot) error {
	flags := libvirt.DOMAIN_SNAPSHOT_CREATE_REDEFINE
	if k.current {
		already, err := isCurrent(dom, k.name)
		if err != nil {
			return err
		}
		if !already {
			flags |= libvirt.DOMAIN_SNAPSHOT_CREATE_CURRENT
		}
	}
	snap, err := dom.CreateSnapshotXML(k.text, flags)
	if err != nil {
		return err
	}
	return snap.Free()
}

// isCurrent tells whether libvirt has a snapshot of that name, and it is the current one.
func isCurrent(dom *libvirt.Domain, name string) (bool, error) {
	snap, err := dom.SnapshotLookupByName(name, 0)
	if errors.Is(err, libvirt.ERR_NO_DOMAIN_SNAPSHOT) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer snap.Free()
	return snap.IsCurrent(0)
}

// Rehearse tells whether Redefine could keep all that is in the metadata of
// the snapshots.
func (h *Host) Rehearse(_ context.Context, domain string, snapshots []string) (err error) {
	defer plain(&err)
	dom, err := h.domain(domain)
	if err != nil {
		return err
	}
	defer dom.Free()
	if err := redefinable(dom, len(snapshots)); err != nil {
		return err
	}
	for _, name := range snapshots {
		if err := rehearse(dom, name); err != nil {
			return fmt.Errorf("snapshot %s: %w", name, err)
		}
	}
	return nil
}

// redefinable refuses what libvirt would: to change snapshots, if there are any to change, of a guest that is off
// and has checkpoints.
func redefinable(dom *libvirt.Domain, snapshots int) error {
	if snapshots == 0 {
		return nil
	}
	active, err := dom.IsActive()
	if err != nil || active {
		return err
	}
	var d host.Domain
	if err := observeCheckpoints(dom, &d); err != nil {
		return err
	}
	return errWhen(d.Checkpoints > 0, host.FrozenSnapshots(d.Checkpoints))
}

func rehearse(dom *libvirt.Domain, name string) error {
	snap, err := dom.SnapshotLookupByName(name, 0)
	if errors.Is(err, libvirt.ERR_NO_DOMAIN_SNAPSHOT) {
		return nil // it is only planned, or gone
	}
	if err != nil {
		return err
	}
	defer snap.Free()
	text, err := snap.GetXMLDesc(libvirt.DOMAIN_SNAPSHOT_XML_SECURE)
	if err != nil {
		return err
	}
	_, err = fixSnapshot(text, host.SnapshotFix{Snapshot: name})
	return err
}

// RehearseConfig tells whether Reconfigure could keep all that is in the persistent
// configuration, or Reinstate what is in that of the snapshot, where one is named.
func (h *Host) RehearseConfig(_ context.Context, domain, snapshot string) (err error) {
	defer plain(&err)
	dom, err := h.domain(domain)
	if err != nil {
		return err
	}
	defer dom.Free()
	if snapshot == "" {
		text, err := dom.GetXMLDesc(libvirt.DOMAIN_XML_INACTIVE | libvirt.DOMAIN_XML_SECURE)
		if err != nil {
			return err
		}
		_, err = fixConfiguration(text, nil)
		return err
	}
	snap, err := dom.SnapshotLookupByName(snapshot, 0)
	if err != nil {
		return err
	}
	defer snap.Free()
	text, err := snap.GetXMLDesc(libvirt.DOMAIN_SNAPSHOT_XML_SECURE)
	if err != nil {
		return err
	}
	_, err = storedConfiguration(text, domain, nil)
	return err
}

// Reconfigure writes into the persistent configuration what chains the disks have
// when the domain starts; all else stays as it is.
func (h *Host) Reconfigure(_ context.Context, domain string, chains map[string][]host.Layer) (err error) {
	defer plain(&err)
	dom, err := h.domain(domain)
	if err != nil {
		return err
	}
	defer dom.Free()
	text, err := dom.GetXMLDesc(libvirt.DOMAIN_XML_INACTIVE | libvirt.DOMAIN_XML_SECURE)
	if err != nil {
		return err
	}
	fixed, err := fixConfiguration(text, chains)
	if err != nil {
		return err
	}
	return h.redefine(fixed)
}

// Reinstate makes the configuration that the snapshot has on record the persistent
// one of the domain, with chains for its disks; undo takes that back. It is an error
// if libvirtxml does not know all that the configuration holds.
func (h *Host) Reinstate(_ context.Context, domain, snapshot string, chains map[string][]host.Layer) (undo func() error, err error) {
	defer plain(&err)
	dom, err := h.domain(domain)
	if err != nil {
		return nil, err
	}
	defer dom.Free()
	before, err := dom.GetXMLDesc(libvirt.DOMAIN_XML_INACTIVE | libvirt.DOMAIN_XML_SECURE)
	if err != nil {
		return nil, err
	}
	snap, err := dom.SnapshotLookupByName(snapshot, 0)
	if err != nil {
		return nil, err
	}
	defer snap.Free()
	text, err := snap.GetXMLDesc(libvirt.DOMAIN_SNAPSHOT_XML_SECURE)
	if err != nil {
		return nil, err
	}
	stored, err := storedConfiguration(text, domain, chains)
	if err != nil {
		return nil, err
	}
	return func() error { return h.redefine(before) }, h.redefine(stored)
}

// redefine makes the text the persistent configuration of a domain.
func (h *Host) redefine(text string) error {
	dom, err := h.conn.DomainDefineXML(text)
	if err != nil {
		return err
	}
	return dom.Free()
}

// Active tells whether a process runs the domain, or is just being started to: the
// state says so only when the guest runs.
func (h *Host) Active(_ context.Context, domain string) (active bool, err error) {
	defer plain(&err)
	dom, err := h.domain(domain)
	if err != nil {
		return false, err
	}
	defer dom.Free()
	return dom.IsActive()
}

// Shutdown asks the guest to shut down; with force it does not ask. A guest that is
// off is no error.
func (h *Host) Shutdown(_ context.Context, domain string, force bool) (err error) {
	defer plain(&err)
	dom, err := h.domain(domain)
	if err != nil {
		return err
	}
	defer dom.Free()
	if force {
		err = dom.Destroy()
	} else {
		err = dom.ShutdownFlags(libvirt.DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
	}
	if errors.Is(err, libvirt.ERR_OPERATION_INVALID) {
		return nil
	}
	return err
}

// Start lets the guest run, from its persistent configuration. One that runs is no error.
func (h *Host) Start(_ context.Context, domain string) (err error) {
	defer plain(&err)
	dom, err := h.domain(domain)
	if err != nil {
		return err
	}
	defer dom.Free()
	if active, err := dom.IsActive(); err != nil || active {
		return err
	}
	return dom.Create()
}

// Resume lets a guest go on that is paused.
func (h *Host) Resume(_ context.Context, domain string) (err error) {
	defer plain(&err)
	dom, err := h.domain(domain)
	if err != nil {
		return err
	}
	defer dom.Free()
	if !pausedByUser(dom) {
		return nil
	}
	return resume(dom)
}

// Redefine writes into a snapshot's metadata where its disks are now. Secrets
// in the stored configurations are kept, and so is what is current, unless this one
// is to be.
func (h *Host) Redefine(_ context.Context, domain string, fix host.SnapshotFix) (err error) {
	defer plain(&err)
	dom, err := h.domain(domain)
	if err != nil {
		return err
	}
	defer dom.Free()
	snap, err := dom.SnapshotLookupByName(fix.Snapshot, 0)
	if err != nil {
		return err
	}
	defer snap.Free()
	text, err := snap.GetXMLDesc(libvirt.DOMAIN_SNAPSHOT_XML_SECURE)
	if err != nil {
		return err
	}
	fixed, err := fixSnapshot(text, fix)
	if err != nil {
		return err
	}
	return defineSnapshot(dom, keptSnapshot{fix.Snapshot, fixed, fix.Current})
}
