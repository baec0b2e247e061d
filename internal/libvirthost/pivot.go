//go:build cgo

package libvirthost

import (
	"errors"
	"fmt"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// drainsRight is the first QEMU whose disks all hold requests back while the block layer
// is drained, as only some did before, and which does not end by itself then.
const drainsRight = 8_001_000

// pivot moves the guest onto the base if the job is ready: equal figures alone do not mean
// that it is. The guest is paused for that moment where QEMU would end by itself.
func (h *Host) pivot(dom *libvirt.Domain, m host.MergeSpec, ready bool) error {
	text, err := dom.GetXMLDesc(0)
	if err != nil {
		return err
	}
	if !ready {
		if ready, err = mirrorReady(text, m.Disk); err != nil || !ready {
			return err
		}
	}
	pause, err := h.diesInPivot(text, m)
	if err != nil {
		return err
	}
	move := func() error { return dom.BlockJobAbort(m.Disk, libvirt.DOMAIN_BLOCK_JOB_ABORT_PIVOT) }
	if !pause {
		return move()
	}
	return paused(dom, m, move)
}

// diesInPivot tells whether QEMU may end by itself as the guest moves to the base: a write
// that waits in a disk's queue meanwhile reaches a raw base before QEMU may write to it
// (bdrv_co_write_req_prepare: Assertion child->perm & BLK_PERM_WRITE). QEMU 7.2 does so
// on every bus but virtio with ioeventfd, at the first pivot under steady writes; 10.0 does
// not.
func (h *Host) diesInPivot(text string, m host.MergeSpec) (bool, error) {
	if m.Base.Format != "raw" {
		return false, nil
	}
	if v, err := h.conn.GetVersion(); err == nil && v >= drainsRight {
		return false, nil
	}
	return queuesWrites(text, m.Disk)
}

// queuesWrites tells whether QEMU takes writes of the guest while the disk is drained.
func queuesWrites(text, target string) (bool, error) {
	var x libvirtxml.Domain
	if err := x.Unmarshal(text); err != nil {
		return false, err
	}
	for i := range x.Devices.Disks {
		d := &x.Devices.Disks[i]
		if d.Target == nil || d.Target.Dev != target {
			continue
		}
		switch {
		case d.Driver != nil && d.Driver.IOEventFD == "off":
			return true, nil
		case d.Target.Bus == "virtio":
			return false, nil
		case d.Target.Bus == "scsi":
			return !onVirtIO(&x, d), nil
		}
		return true, nil
	}
	return true, nil
}

// onVirtIO tells whether the controller of a SCSI disk is one of virtio, with ioeventfd.
func onVirtIO(x *libvirtxml.Domain, d *libvirtxml.DomainDisk) bool {
	var index uint
	if d.Address != nil && d.Address.Drive != nil && d.Address.Drive.Controller != nil {
		index = *d.Address.Drive.Controller
	}
	for _, c := range x.Devices.Controllers {
		if c.Type == "scsi" && c.Index != nil && *c.Index == index {
			switch c.Model {
			case "virtio-scsi", "virtio-transitional", "virtio-non-transitional":
				return c.Driver == nil || c.Driver.IOEventFD != "off"
			}
		}
	}
	return false
}

// paused does something while the guest does not run, if it runs. Whoever started the
// merge puts that on record first: after a crash the guest must not stay paused.
func paused(dom *libvirt.Domain, m host.MergeSpec, do func() error) error {
	state, _, err := dom.GetState()
	if err != nil {
		return err
	}
	if state != libvirt.DOMAIN_RUNNING {
		return do()
	}
	if m.Pausing != nil {
		if err := m.Pausing(); err != nil {
			return err
		}
	}
	if err := dom.Suspend(); err != nil {
		return fmt.Errorf("pausing the guest for the move to its base: %w", err)
	}
	return errors.Join(do(), resume(dom))
}

// resume tries for a while: a guest that stays paused is as good as one that is off.
func resume(dom *libvirt.Domain) (err error) {
	for range 20 {
		if err = dom.Resume(); err == nil || !pausedByUser(dom) {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("the guest is paused, and cannot be resumed: %w", err)
}

// pausedByUser tells whether the guest is paused, and nothing but a resume is missing.
func pausedByUser(dom *libvirt.Domain) bool {
	state, reason, err := dom.GetState()
	return err != nil || state == libvirt.DOMAIN_PAUSED && libvirt.DomainPausedReason(reason) == libvirt.DOMAIN_PAUSED_USER
}
