//go:build cgo

package libvirthost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"libvirt.org/go/libvirt"
)

// abortsSafely is the newest libvirt that was seen to end a snapshot with memory when it is told to (11.3). libvirtd 12.8 dies
// of it (virsh domjobabort); then what was begun is waited for.
const abortsSafely = 11_003_999

// memoryInterval is how often the file is looked at while memory is written.
const memoryInterval = 100 * time.Millisecond

// SnapshotWithMemory takes an external snapshot with the guest's memory: all of one moment, or nothing.
// libvirt pauses the guest for that moment, and lets it go on whether the snapshot succeeds or not.
func (h *Host) SnapshotWithMemory(ctx context.Context, domain string, spec host.SnapshotSpec, tell host.MemoryEvents) (err error) {
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
	flags := libvirt.DOMAIN_SNAPSHOT_CREATE_ATOMIC
	if spec.Memory.Live {
		flags |= libvirt.DOMAIN_SNAPSHOT_CREATE_LIVE
	}
	stood := h.watchPauses(dom, spec.Memory.Runs)
	canceled := ctx.Done()
	if h.version > abortsSafely {
		canceled = nil
	}
	end := watchMemory(canceled, dom, spec.Memory, tell)
	snap, err := dom.CreateSnapshotXML(text, flags)
	if suspended, failed := end(); suspended || err != nil {
		err = errors.Join(err, failed, goesOn(dom, spec.Memory))
	}
	if t := stood(err == nil); tell.Stood != nil {
		tell.Stood(t)
	}
	if snap == nil {
		return errors.Join(ctx.Err(), err)
	}
	return errors.Join(err, snap.Free())
}

// watchMemory looks at the file while libvirt writes it: it tells how far that is, pauses a guest that
// writes faster than can be saved, and ends libvirt's job when that is canceled. The returned function ends it, and
// tells whether the guest was to be paused, and why it could not be.
func watchMemory(canceled <-chan struct{}, dom *libvirt.Domain, m *host.MemorySpec, tell host.MemoryEvents) (end func() (bool, error)) {
	over, ended := make(chan struct{}), make(chan struct{})
	suspended := false
	var err error
	go func() {
		defer close(ended)
		tick := time.NewTicker(memoryInterval)
		defer tick.Stop()
		for {
			select {
			case <-over:
				return
			case <-canceled:
				canceled = nil
				_ = dom.AbortJob() // it may just have ended
			case <-tick.C:
				size := sizeOf(m.Path)
				if tell.Progress != nil {
					tell.Progress(size, m.Size)
				}
				if m.Live && !suspended && size > m.Most {
					suspended, err = true, suspendFor(dom, tell)
				}
			}
		}
	}()
	return func() (bool, error) {
		close(over)
		<-ended
		return suspended, err
	}
}

// suspendFor pauses the guest while its memory is written: libvirt lets it go on afterwards.
func suspendFor(dom *libvirt.Domain, tell host.MemoryEvents) error {
	if tell.Pausing != nil {
		if err := tell.Pausing(); err != nil {
			return err
		}
	}
	return dom.Suspend()
}

// goesOn lets a guest run that was to be paused while its memory was written: the pause may have come when
// libvirt had done its work already, and waited for its end.
func goesOn(dom *libvirt.Domain, m *host.MemorySpec) error {
	state, reason, err := dom.GetState()
	if err != nil || !m.Runs || state != libvirt.DOMAIN_PAUSED || libvirt.DomainPausedReason(reason) == libvirt.DOMAIN_PAUSED_IOERROR {
		return err
	}
	return dom.Resume()
}

func sizeOf(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// eventsLate is how long the event of a guest's going on is waited for.
const eventsLate = 2 * time.Second

// A pauseWatch measures how long a guest is paused, by libvirt's events.
type pauseWatch struct {
	mu    sync.Mutex // guards what follows
	since time.Time  // zero while it runs
	sum   time.Duration
}

func (w *pauseWatch) event(_ *libvirt.Connect, _ *libvirt.Domain, e *libvirt.DomainEventLifecycle) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case e.Event == libvirt.DOMAIN_EVENT_SUSPENDED && w.since.IsZero():
		w.since = time.Now()
	case e.Event == libvirt.DOMAIN_EVENT_RESUMED && !w.since.IsZero():
		w.sum, w.since = w.sum+time.Since(w.since), time.Time{}
	}
}

// total is how long it was, and over tells whether it goes on.
func (w *pauseWatch) total() (sum time.Duration, over bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sum, w.since.IsZero() && w.sum > 0
}

// watchPauses measures how long a guest that runs is paused, up to the call of the returned function, which waits
// for the last event if it is to come.
func (h *Host) watchPauses(dom *libvirt.Domain, runs bool) (stood func(comes bool) time.Duration) {
	w := &pauseWatch{}
	id, err := h.conn.DomainEventLifecycleRegister(dom, w.event)
	if err != nil { // a driver without events: nobody knows how long it was
		return func(bool) time.Duration { return 0 }
	}
	return func(comes bool) time.Duration {
		late := time.Now().Add(eventsLate)
		for sum, over := w.total(); ; sum, over = w.total() {
			if over || !runs || !comes || time.Now().After(late) {
				_ = h.conn.DomainEventDeregister(id) // it goes with the connection anyway
				return sum
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// GoOn lets a domain that is off go on from its memory, on these chains. libvirt does not remove the file.
func (h *Host) GoOn(_ context.Context, domain, memory string, chains map[string][]host.Layer) (err error) {
	defer plain(&err)
	text, err := h.savedConfiguration(domain, memory, chains)
	if err != nil {
		return err
	}
	return h.conn.DomainRestoreFlags(memory, text, 0)
}

// RehearseGoOn tells whether the domain could go on from the file, as far as the file tells.
func (h *Host) RehearseGoOn(_ context.Context, domain, memory string) (err error) {
	defer plain(&err)
	_, err = h.savedConfiguration(domain, memory, nil)
	return err
}

// savedConfiguration is the configuration with which the domain goes on from the file.
func (h *Host) savedConfiguration(domain, memory string, chains map[string][]host.Layer) (string, error) {
	dom, err := h.domain(domain)
	if err != nil {
		return "", err
	}
	defer dom.Free()
	uuid, err := dom.GetUUIDString()
	if err != nil {
		return "", err
	}
	text, err := h.conn.DomainSaveImageGetXMLDesc(memory, libvirt.DOMAIN_SAVE_IMAGE_XML_SECURE)
	if err != nil {
		return "", err
	}
	fixed, who, err := goingOn(text, chains)
	switch {
	case err != nil:
		return "", err
	case who.UUID != uuid:
		return "", fmt.Errorf("it is of another domain, %s (%s)", who.Name, who.UUID)
	case who.Name != domain:
		return "", fmt.Errorf("the domain was called %s then, and libvirt lets it go on under that name only (virsh domrename)", who.Name)
	}
	return fixed, nil
}

// observeBusy notes what libvirt does with the guest, and lets nobody change it meanwhile.
func observeBusy(dom *libvirt.Domain, d *host.Domain) error {
	stats, err := dom.GetJobStats(0) // invalid: the guest has just stopped
	if errors.Is(err, libvirt.ERR_NO_SUPPORT) || errors.Is(err, libvirt.ERR_OPERATION_INVALID) || err == nil && (stats.Type == libvirt.DOMAIN_JOB_NONE || !stats.OperationSet) {
		return nil
	}
	if err != nil {
		return err
	}
	switch stats.Operation {
	case libvirt.DOMAIN_JOB_OPERATION_SNAPSHOT:
		d.Busy = "a snapshot"
	case libvirt.DOMAIN_JOB_OPERATION_SAVE:
		d.Busy = "a save"
	case libvirt.DOMAIN_JOB_OPERATION_DUMP:
		d.Busy = "a dump"
	case libvirt.DOMAIN_JOB_OPERATION_MIGRATION_OUT:
		d.Busy = "a migration"
	}
	return nil
}
