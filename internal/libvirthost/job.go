//go:build cgo

package libvirthost

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"libvirt.org/go/libvirt"
)

// pollInterval is how often a job is looked at when no event comes: a missing
// event must not hang a run, and the progress has to move.
const pollInterval = 500 * time.Millisecond

// eventPatience is how long the event of a job that is gone is waited for.
const eventPatience = 5 * time.Second

// A waiter is woken by the events of one domain's disk.
type waiter struct {
	domain, disk string
	wake         chan libvirt.ConnectDomainEventBlockJobStatus
}

// jobEvent wakes those who wait for the disk. The domain is valid only until it returns.
func (h *Host) jobEvent(_ *libvirt.Connect, dom *libvirt.Domain, e *libvirt.DomainEventBlockJob) {
	name, err := dom.GetName()
	if err != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.waiters {
		if w.domain == name && w.disk == e.Disk {
			select {
			case w.wake <- e.Status:
			default: // full: it will look anyway
			}
		}
	}
}

func (h *Host) wait(domain, disk string) (w *waiter, end func()) {
	w = &waiter{domain, disk, make(chan libvirt.ConnectDomainEventBlockJobStatus, 8)}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiters[w] = true
	return w, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.waiters, w)
	}
}

// errJob says that a job ended without having done its work. libvirt tells no reason.
var errJob = errors.New("the block job failed (libvirt gives no reason: often no space is left, or access is denied)")

// Merge commits m.Top and what is between into m.Base, or pulls what is below it
// into m.Top, or waits for such a job that runs already. When ctx ends, the job is aborted: the chain is then
// as it was before.
func (h *Host) Merge(ctx context.Context, m host.MergeSpec, progress func(done, total int64)) (err error) {
	defer plain(&err)
	dom, err := h.domain(m.Domain)
	if err != nil {
		return err
	}
	defer dom.Free()
	w, end := h.wait(m.Domain, m.Disk)
	defer end()
	info, err := jobInfo(dom, m.Disk)
	if err != nil {
		return err
	}
	switch {
	case info.Type == libvirt.DOMAIN_BLOCK_JOB_TYPE_UNKNOWN && m.Adopt:
		return nil // it ended meanwhile: the caller looks what it did
	case info.Type == libvirt.DOMAIN_BLOCK_JOB_TYPE_UNKNOWN:
		err = refusedStart(dom, m, start(dom, m))
	case m.Adopt:
		err = adopt(dom, m, info)
	default:
		err = fmt.Errorf("a block job of type %q that is not ours runs on %s", jobType(info.Type), m.Disk)
	}
	if err != nil {
		return err
	}
	return h.follow(ctx, dom, m, w, progress)
}

func jobInfo(dom *libvirt.Domain, disk string) (*libvirt.DomainBlockJobInfo, error) {
	return dom.GetBlockJobInfo(disk, libvirt.DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES)
}

func start(dom *libvirt.Domain, m host.MergeSpec) error {
	if m.Pull {
		return startPull(dom, m)
	}
	return startCommit(dom, m)
}

// refusedStart marks an error of a start that QEMU has refused: no job is there. What
// may have been lost on the way to libvirt tells nothing of the kind.
func refusedStart(dom *libvirt.Domain, m host.MergeSpec, err error) error {
	if !errors.Is(err, libvirt.ERR_INTERNAL_ERROR) && !errors.Is(err, libvirt.ERR_OPERATION_FAILED) && !errors.Is(err, libvirt.ERR_OPERATION_INVALID) {
		return err
	}
	if info, failed := jobInfo(dom, m.Disk); failed != nil || info.Type != libvirt.DOMAIN_BLOCK_JOB_TYPE_UNKNOWN {
		return err
	}
	return fmt.Errorf("%w: %w", host.ErrNotStarted, err)
}

// startPull starts a pull into the active layer, of all that is above m.Below.
func startPull(dom *libvirt.Domain, m host.MergeSpec) error {
	if m.Below.Path == "" {
		return dom.BlockPull(m.Disk, uint64(m.Bandwidth), libvirt.DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES)
	}
	flags := libvirt.DOMAIN_BLOCK_REBASE_BANDWIDTH_BYTES
	below := layerName(m.Disk, m.Below)
	if m.Relative {
		err := dom.BlockRebase(m.Disk, below, uint64(m.Bandwidth), flags|libvirt.DOMAIN_BLOCK_REBASE_RELATIVE)
		if !noRelativeNames(err) {
			return err
		}
	}
	return dom.BlockRebase(m.Disk, below, uint64(m.Bandwidth), flags)
}

// noRelativeNames tells whether libvirt could not make up a relative name.
func noRelativeNames(err error) bool {
	return errors.Is(err, libvirt.ERR_CONFIG_UNSUPPORTED) || errors.Is(err, libvirt.ERR_OPERATION_INVALID)
}

// startCommit starts the job. Layers are named by libvirt's numbers for them,
// which no symlink or relative name can mislead.
func startCommit(dom *libvirt.Domain, m host.MergeSpec) error {
	flags := libvirt.DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES
	if m.Active {
		flags |= libvirt.DOMAIN_BLOCK_COMMIT_ACTIVE
	}
	base, top := layerName(m.Disk, m.Base), layerName(m.Disk, m.Top)
	if m.Relative {
		err := dom.BlockCommit(m.Disk, base, top, uint64(m.Bandwidth), flags|libvirt.DOMAIN_BLOCK_COMMIT_RELATIVE)
		if !noRelativeNames(err) {
			return err
		}
	}
	return dom.BlockCommit(m.Disk, base, top, uint64(m.Bandwidth), flags)
}

func layerName(disk string, l host.Layer) string {
	if l.Index == 0 {
		return l.Path
	}
	return fmt.Sprintf("%s[%d]", disk, l.Index)
}

// adopt takes over a job that an earlier run started.
func adopt(dom *libvirt.Domain, m host.MergeSpec, info *libvirt.DomainBlockJobInfo) error {
	want := "commit"
	switch {
	case m.Pull:
		want = "pull"
	case m.Active:
		want = "active-commit"
	}
	if t := jobType(info.Type); t != want {
		return fmt.Errorf("a block job of type %q runs on %s, not our %s", t, m.Disk, want)
	}
	return dom.BlockJobSetSpeed(m.Disk, uint64(m.Bandwidth), libvirt.DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES)
}

// follow waits until the job is gone, and pivots when it is ready. What the
// job did is for the caller to see: gone is not the same as done.
func (h *Host) follow(ctx context.Context, dom *libvirt.Domain, m host.MergeSpec, w *waiter, progress func(done, total int64)) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	ready, told := false, false
	for {
		info, err := jobInfo(dom, m.Disk)
		if err != nil {
			return err
		}
		if info.Type == libvirt.DOMAIN_BLOCK_JOB_TYPE_UNKNOWN {
			progress(m.Bytes, m.Bytes)
			if told {
				return nil
			}
			return lastWord(ctx, w)
		}
		progress(share(info, m.Bytes), m.Bytes)
		if info.Type == libvirt.DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT {
			if err := h.pivot(dom, m, ready); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return abort(ctx, dom, m.Disk)
		case status := <-w.wake:
			if told, err = verdict(status); err != nil {
				return err
			}
			ready = status == libvirt.DOMAIN_BLOCK_JOB_READY
		case <-tick.C:
		}
	}
}

// lastWord waits for the event of a job that is gone: who looks just as it ends is faster
// than the event, which alone tells that the job has failed.
func lastWord(ctx context.Context, w *waiter) error {
	late := time.NewTimer(eventPatience)
	defer late.Stop()
	for {
		select {
		case status := <-w.wake:
			if told, err := verdict(status); told {
				return err
			}
		case <-late.C:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// verdict tells whether an event is that of a job's end.
func verdict(status libvirt.ConnectDomainEventBlockJobStatus) (told bool, err error) {
	switch status {
	case libvirt.DOMAIN_BLOCK_JOB_FAILED:
		return true, errJob
	case libvirt.DOMAIN_BLOCK_JOB_COMPLETED, libvirt.DOMAIN_BLOCK_JOB_CANCELED:
		return true, nil
	}
	return false, nil
}

// share turns the job's position into bytes of the layers that are merged.
func share(info *libvirt.DomainBlockJobInfo, total int64) int64 {
	if info.End == 0 {
		return 0
	}
	return int64(float64(total) * float64(info.Cur) / float64(info.End))
}

func mirrorReady(text, target string) (bool, error) {
	d := host.Domain{}
	if err := readDomain(&d, text, nil); err != nil {
		return false, err
	}
	for _, disk := range d.Disks {
		if disk.Target == target {
			return disk.Job != nil && disk.Job.Ready, nil
		}
	}
	return false, fmt.Errorf("the guest has no disk %s any more", target)
}

// abort ends the job and leaves the chain as it was before it.
func abort(ctx context.Context, dom *libvirt.Domain, disk string) error {
	if err := dom.BlockJobAbort(disk, 0); err != nil && !errors.Is(err, libvirt.ERR_OPERATION_INVALID) {
		return errors.Join(ctx.Err(), fmt.Errorf("ending the block job on %s: %w", disk, err))
	}
	return ctx.Err()
}
