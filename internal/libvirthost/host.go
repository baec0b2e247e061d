//go:build cgo

package libvirthost

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/snapcache"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"libvirt.org/go/libvirt"
)

// A Host is a connection to libvirt. It is safe for use by several goroutines.
type Host struct {
	conn     *libvirt.Connect
	embedded bool // the hypervisor driver runs in this process
	remote   bool
	version  uint32 // of libvirt there: 9000000 is 9.0.0
	events   int
	texts    *seenTexts             // nil: each text is read anew
	told     *snapcache.Cache[told] // of a Looker alone: what changes anything asks libvirt

	mu      sync.Mutex // guards waiters
	waiters map[*waiter]bool
}

// opensBases is the first libvirt that opens AppArmor's profile of a guest for
// the layers that a merge writes to.
const opensBases = 12_001_000

// startEvents makes libvirt's event loop run for the rest of the process. It
// must run before the first connection is opened.
var startEvents = sync.OnceValue(func() error {
	if err := libvirt.EventRegisterDefaultImpl(); err != nil {
		return err
	}
	go func() {
		for {
			_ = libvirt.EventRunDefaultImpl() // an error here ends with the connection, which reports it
		}
	}()
	return nil
})

// Open connects to libvirt. An empty uri leaves the choice to libvirt:
// LIBVIRT_DEFAULT_URI, its configuration, or what it finds.
func Open(uri string) (*Host, error) {
	h, err := open(uri)
	if err == nil {
		h.texts = newSeenTexts()
	}
	return h, err
}

func open(uri string) (h *Host, err error) {
	defer plain(&err)
	if err := startEvents(); err != nil {
		return nil, notInstalled(err)
	}
	conn, err := libvirt.NewConnect(uri)
	if err != nil {
		return nil, fmt.Errorf("connecting to libvirt%s: %w", named(uri), unreached(notInstalled(err)))
	}
	h = &Host{conn: conn, waiters: map[*waiter]bool{}}
	actual, err := conn.GetURI()
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	if h.remote, err = isRemote(conn, actual); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	h.embedded = isEmbedded(actual)
	if h.version, err = conn.GetLibVersion(); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	if h.events, err = conn.DomainEventBlockJob2Register(nil, h.jobEvent); err != nil {
		h.events = -1 // a driver without events: the slow poll does
	}
	return h, nil
}

// notInstalled recognizes what the dlopen build says where the library is missing.
func notInstalled(err error) error {
	if strings.Contains(err.Error(), "dlopen") || strings.Contains(err.Error(), "libvirt.so") {
		return fmt.Errorf("%w (%w)", ErrNotInstalled, err)
	}
	return err
}

func named(uri string) string {
	if uri == "" {
		return ""
	}
	return " at " + uri
}

// isRemote tells whether a connection is to another host. A URI without a host
// is this one; one that names this host may still be a tunnel, so libvirt is
// asked where it runs.
func isRemote(conn *libvirt.Connect, uri string) (bool, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return true, err
	}
	if u.Hostname() == "" {
		return false, nil
	}
	here, err := os.Hostname()
	if err != nil {
		return true, err
	}
	switch name := u.Hostname(); name {
	case "localhost", "127.0.0.1", "::1", here:
	default:
		if shortName(name) != shortName(here) {
			return true, nil
		}
	}
	there, err := conn.GetHostname()
	return shortName(there) != shortName(here), err
}

// isEmbedded tells whether a URI is of the kind qemu:///embed?root=DIR.
func isEmbedded(uri string) bool {
	u, err := url.Parse(uri)
	return err == nil && u.Path == "/embed"
}

func shortName(host string) string {
	short, _, _ := strings.Cut(host, ".")
	return short
}

// Close ends the connection. Guests and their jobs go on. A driver embedded in
// this process ends with the process: taken down while it still looks at its
// guests, libvirt 9.0 crashes now and then.
func (h *Host) Close() error {
	if h.embedded {
		return nil
	}
	if h.events > 0 {
		_ = h.conn.DomainEventDeregister(h.events) // the connection goes anyway
	}
	_, err := h.conn.Close()
	return err
}

// Remote tells whether the host's files are out of this process's reach.
func (h *Host) Remote() bool { return h.remote }

// Domains returns the named domains, or all; a name that the host does not
// have is left out.
func (h *Host) Domains(ctx context.Context, names ...string) (domains []host.Domain, err error) {
	defer plain(&err)
	found, err := h.list(names)
	if err != nil {
		return nil, err
	}
	domains = make([]host.Domain, 0, len(found))
	find := h.volumeFinder()
	for i := range found {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		d, err := h.observeSoon(ctx, &found[i], h.volumes(find))
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		domains = append(domains, d)
	}
	return domains, nil
}

// volumes finds the volumes of one domain's texts.
func (h *Host) volumes(find func(host.Volume) place) *volumes {
	v := newVolumes(find)
	v.texts = h.texts
	return v
}

func (h *Host) list(names []string) ([]libvirt.Domain, error) {
	if len(names) == 0 {
		return h.conn.ListAllDomains(0)
	}
	var found []libvirt.Domain
	for _, name := range names {
		d, err := h.conn.LookupDomainByName(name)
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = append(found, *d)
	}
	return found, nil
}

// gone tells whether the error is that a domain is not there (any more).
func gone(err error) bool { return errors.Is(err, libvirt.ERR_NO_DOMAIN) }

// patience is how long libvirt may take to tell of one domain. One QEMU that
// hangs must not hang the rotation of all others.
const patience = time.Minute

// observeSoon is observe within patience. A domain that takes longer has that
// as its problem; the call is left behind with what it holds.
func (h *Host) observeSoon(ctx context.Context, dom *libvirt.Domain, v *volumes) (host.Domain, error) {
	type result struct {
		d   host.Domain
		err error
	}
	name, err := dom.GetName()
	if err != nil {
		return host.Domain{}, err
	}
	done := make(chan result, 1)
	go func() {
		d, err := h.observe(dom, name, v)
		_ = dom.Free()
		done <- result{d, err}
	}()
	select {
	case r := <-done:
		return r.d, r.err
	case <-ctx.Done():
		return host.Domain{}, ctx.Err()
	case <-time.After(patience):
		return h.silent(ctx, name, h.volumes(v.find)), nil
	}
}

// silent is what is known of a domain for which libvirt does not answer: its QEMU
// hangs, as a rule. What it has when it starts, libvirt tells without QEMU.
func (h *Host) silent(ctx context.Context, name string, v *volumes) host.Domain {
	d := host.Domain{Name: name, State: "unknown", Problem: fmt.Sprintf("libvirt did not answer for it within %s", patience)}
	answer := make(chan host.Domain, 1)
	go func() {
		var named host.Domain
		noteNames(&named, h.persistentXML(name), v)
		v.note(&named)
		answer <- named
	}()
	select {
	case named := <-answer:
		d.Elsewhere, d.Unknown = named.Elsewhere, named.Unknown
	case <-ctx.Done():
	case <-time.After(secondPatience):
	}
	if len(d.Elsewhere)+len(d.Unknown) == 0 {
		d.Unknown = append(d.Unknown, "what images it uses is not known: "+d.Problem)
	}
	return d
}

// secondPatience is how long libvirt may take for what needs no QEMU.
const secondPatience = 5 * time.Second

// persistentXML is the persistent configuration of a domain, or "".
func (h *Host) persistentXML(name string) string {
	dom, err := h.conn.LookupDomainByName(name)
	if err != nil {
		return ""
	}
	defer dom.Free()
	text, err := dom.GetXMLDesc(libvirt.DOMAIN_XML_INACTIVE)
	if err != nil {
		return ""
	}
	return text
}

// observe looks at a domain. What goes wrong there, a panic too, is the domain's
// problem; the others go on.
func (h *Host) observe(dom *libvirt.Domain, name string, v *volumes) (host.Domain, error) {
	d, text := host.Domain{Name: name}, ""
	var err error
	fault := host.Contain(name, func() { text, err = h.observeAll(dom, &d, v) })
	if fault != nil {
		d.Faults, err = append(d.Faults, fault), fault
	}
	if gone(err) {
		return d, err
	}
	if err != nil {
		h.noteAll(&d, text, err, v)
	}
	v.note(&d)
	return d, nil
}

// noteAll notes what a domain that could not be read in full names, and why it could not.
func (h *Host) noteAll(d *host.Domain, text string, err error, v *volumes) {
	plain(&err)
	d.Problem = err.Error()
	noteNames(d, text, v)
	if text == "" {
		noteNames(d, h.persistentXML(d.Name), v)
	}
	if len(d.Disks)+len(d.Elsewhere) == 0 && text == "" {
		d.Unknown = append(d.Unknown, "what images it uses is not known: "+d.Problem)
	}
}

// observeAll also returns the domain's XML, as far as it got that.
func (h *Host) observeAll(dom *libvirt.Domain, d *host.Domain, v *volumes) (text string, err error) {
	if err = readState(dom, d); err != nil {
		return "", err
	}
	if text, err = dom.GetXMLDesc(0); err != nil {
		return "", err
	}
	err = readDomain(d, text, v)
	d.AppArmor = d.AppArmor && h.version < opensBases
	return text, errors.Join(err, h.observeMore(dom, d, v))
}

func readState(dom *libvirt.Domain, d *host.Domain) error {
	state, reason, err := dom.GetState()
	if err != nil {
		return err
	}
	switch state {
	case libvirt.DOMAIN_RUNNING, libvirt.DOMAIN_BLOCKED:
		d.State = host.Running
	case libvirt.DOMAIN_PAUSED:
		d.State = host.Paused
		d.IOError = libvirt.DomainPausedReason(reason) == libvirt.DOMAIN_PAUSED_IOERROR
		if libvirt.DomainPausedReason(reason) == libvirt.DOMAIN_PAUSED_MIGRATION {
			d.State = "migrating"
		}
	case libvirt.DOMAIN_SHUTOFF, libvirt.DOMAIN_CRASHED:
		d.State = host.ShutOff
	case libvirt.DOMAIN_SHUTDOWN:
		d.State = "in shutdown"
	case libvirt.DOMAIN_PMSUSPENDED:
		d.State = "pmsuspended"
	default:
		d.State = "no state"
	}
	return nil
}

// observeMore reads what the domain's XML does not hold. An error does not end it: what
// the rest names counts as in use all the same.
func (h *Host) observeMore(dom *libvirt.Domain, d *host.Domain, v *volumes) error {
	persistent, err := dom.IsPersistent()
	if err != nil {
		return err
	}
	d.Transient = !persistent
	if d.AppArmor && !h.remote {
		d.AppArmorFile = appArmorFile("/etc/apparmor.d/abstractions")
	}
	var live, sizes error
	if d.State.Live() {
		live = errors.Join(observeLive(dom, d, v), h.observeVolumes(dom, d), observeBusy(dom, d))
	} else {
		for i := range d.Disks {
			d.Disks[i].Inactive = layerPaths(d.Disks[i].Chain)
		}
	}
	saved := observeSaved(dom, d, v)
	snapshots := h.observeSnapshots(dom, d, v)
	if h.remote {
		sizes = h.observeSizes(dom, d)
	}
	return errors.Join(live, saved, snapshots, sizes, observeCheckpoints(dom, d))
}

func observeSaved(dom *libvirt.Domain, d *host.Domain, v *volumes) error {
	saved, err := dom.HasManagedSaveImage(0)
	if err != nil || !saved {
		return err
	}
	d.ManagedSave = true
	text, err := dom.ManagedSaveGetXMLDesc(0)
	if err != nil {
		return err
	}
	return readElsewhere(d, text, v)
}

func observeCheckpoints(dom *libvirt.Domain, d *host.Domain) error {
	checkpoints, err := dom.ListAllCheckpoints(0)
	if errors.Is(err, libvirt.ERR_NO_SUPPORT) {
		return nil
	}
	d.Checkpoints = len(checkpoints)
	for i := range checkpoints {
		_ = checkpoints[i].Free()
	}
	return err
}

// observeLive reads the persistent configuration and the block jobs.
func observeLive(dom *libvirt.Domain, d *host.Domain, v *volumes) error {
	if !d.Transient {
		text, err := dom.GetXMLDesc(libvirt.DOMAIN_XML_INACTIVE)
		if err != nil {
			return err
		}
		if err := readInactive(d, text, v); err != nil {
			return err
		}
	}
	for i := range d.Disks {
		disk := &d.Disks[i]
		if disk.Device == "cdrom" || disk.Device == "floppy" || len(disk.Chain) == 0 {
			continue
		}
		info, err := jobInfo(dom, disk.Target)
		if errors.Is(err, libvirt.ERR_NO_SUPPORT) {
			return nil
		}
		if err != nil {
			return err
		}
		readJob(disk, info)
	}
	return nil
}

func readJob(disk *host.Disk, info *libvirt.DomainBlockJobInfo) {
	if info.Type == libvirt.DOMAIN_BLOCK_JOB_TYPE_UNKNOWN {
		return
	}
	if disk.Job == nil {
		disk.Job = &host.Job{}
	}
	disk.Job.Type, disk.Job.Done, disk.Job.Size = jobType(info.Type), int64(info.Cur), int64(info.End)
}

func jobType(t libvirt.DomainBlockJobType) string {
	switch t {
	case libvirt.DOMAIN_BLOCK_JOB_TYPE_COMMIT:
		return "commit"
	case libvirt.DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT:
		return "active-commit"
	case libvirt.DOMAIN_BLOCK_JOB_TYPE_PULL:
		return "pull"
	case libvirt.DOMAIN_BLOCK_JOB_TYPE_COPY:
		return "copy"
	case libvirt.DOMAIN_BLOCK_JOB_TYPE_BACKUP:
		return "backup"
	}
	return "unknown"
}

func (h *Host) observeSnapshots(dom *libvirt.Domain, d *host.Domain, v *volumes) error {
	snaps, err := dom.ListAllSnapshots(libvirt.DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)
	if errors.Is(err, libvirt.ERR_NO_SUPPORT) || err == nil && len(snaps) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	current := ""
	if snap, err := dom.SnapshotCurrent(0); err == nil {
		current, _ = snap.GetName()
		_ = snap.Free()
	}
	err = h.readSnapshots(d, snaps, current, v)
	for i := range snaps {
		_ = snaps[i].Free()
	}
	return err
}

// domain looks a domain up; the caller frees it.
func (h *Host) domain(name string) (*libvirt.Domain, error) {
	dom, err := h.conn.LookupDomainByName(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return dom, nil
}
