//go:build cgo

package libvirthost

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// Copy starts a shallow copy of a running domain's active layer onto the image at
// c.To, which has a chain of its own, and waits until the copy follows the guest's
// writes. When ctx ends, the job fails or the guest outruns it, the guest is left on
// the chain that it has.
func (h *Host) Copy(ctx context.Context, c host.CopySpec, progress func(done, total int64)) (err error) {
	defer plain(&err)
	dom, err := h.domain(c.Domain)
	if err != nil {
		return err
	}
	defer dom.Free()
	w, end := h.wait(c.Domain, c.Disk)
	defer end()
	if err := startCopy(dom, c); err != nil {
		return err
	}
	return untilReady(ctx, dom, c, w, progress)
}

// startCopy copies behind the guest. QEMU's other mode, in which the guest waits until
// each write is in both images (VIR_DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES), would end
// however much the guest writes, but QEMU 7.2 loses writes in it: where a guest wrote
// parts of clusters while it was copied, the copy had zeros after the pivot.
func startCopy(dom *libvirt.Domain, c host.CopySpec) error {
	target := libvirtxml.DomainDisk{
		Device: "disk",
		Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: c.Format},
		Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: c.To}},
	}
	xml, err := target.Marshal()
	if err != nil {
		return err
	}
	params := &libvirt.DomainBlockCopyParameters{BandwidthSet: c.Bandwidth > 0, Bandwidth: uint64(c.Bandwidth)}
	flags := libvirt.DOMAIN_BLOCK_COPY_SHALLOW | libvirt.DOMAIN_BLOCK_COPY_REUSE_EXT | libvirt.DOMAIN_BLOCK_COPY_TRANSIENT_JOB
	return dom.BlockCopy(c.Disk, xml, params, flags)
}

func untilReady(ctx context.Context, dom *libvirt.Domain, c host.CopySpec, w *waiter, progress func(done, total int64)) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	ready, least, nearer, patience := false, uint64(math.MaxUint64), time.Now(), copyPatience()
	for {
		info, err := jobInfo(dom, c.Disk)
		if err != nil {
			return err
		}
		if info.Type == libvirt.DOMAIN_BLOCK_JOB_TYPE_UNKNOWN {
			return errJob
		}
		if left := info.End - info.Cur; left < least {
			least, nearer = left, time.Now()
		}
		if time.Since(nearer) > patience {
			return errors.Join(host.ErrOutrun, abort(ctx, dom, c.Disk))
		}
		progress(share(info, c.Bytes), c.Bytes)
		if !ready {
			text, err := dom.GetXMLDesc(0)
			if err == nil {
				ready, err = mirrorReady(text, c.Disk)
			}
			if err != nil {
				return err
			}
		}
		if ready {
			return nil
		}
		select {
		case <-ctx.Done():
			return abort(ctx, dom, c.Disk)
		case status := <-w.wake:
			if status == libvirt.DOMAIN_BLOCK_JOB_FAILED {
				return errJob
			}
			ready = status == libvirt.DOMAIN_BLOCK_JOB_READY
		case <-tick.C:
		}
	}
}

// Pivot moves the guest onto the copy, and waits until it is there.
func (h *Host) Pivot(_ context.Context, domain, disk string) (err error) {
	defer plain(&err)
	dom, err := h.domain(domain)
	if err != nil {
		return err
	}
	defer dom.Free()
	if err := dom.BlockJobAbort(disk, libvirt.DOMAIN_BLOCK_JOB_ABORT_PIVOT); err != nil {
		return fmt.Errorf("moving %s onto its copy: %w", disk, err)
	}
	return nil
}

// EndCopy ends the copy that runs on the disk: the guest stays on the chain that it
// has. None is no error.
func (h *Host) EndCopy(_ context.Context, domain, disk string) (err error) {
	defer plain(&err)
	dom, err := h.domain(domain)
	if err != nil {
		return err
	}
	defer dom.Free()
	info, err := jobInfo(dom, disk)
	if err != nil {
		return err
	}
	if info.Type == libvirt.DOMAIN_BLOCK_JOB_TYPE_UNKNOWN {
		return nil
	}
	if info.Type != libvirt.DOMAIN_BLOCK_JOB_TYPE_COPY {
		return fmt.Errorf("a block job of type %q, not our copy, runs on %s", jobType(info.Type), disk)
	}
	return abort(context.Background(), dom, disk)
}
