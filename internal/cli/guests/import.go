package guests

import (
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/bundle"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/libvirthost"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

func importCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "import", Usage: "define a guest from what export --all has written",
		ArgsUsage: "DIR", OnUsageError: term.UsageError,
		Flags: append(images.WriteFlags(),
			&cli.StringFlag{Name: "name", Usage: "`NAME` of the guest here, which gets a UUID of its own then"},
			&cli.BoolFlag{Name: "new-macs", Usage: "give its network cards addresses of their own"},
			&cli.StringFlag{Name: "to", Usage: "`DIR` for its images (default: libvirt's pool named default, else its directory for images)"},
			&cli.BoolFlag{Name: "trust", Usage: "let it have what its configuration names of this host: devices, files, programs; --dry-run lists them"}),
		Description: `Everything is checked first: the sums of all files, what the configuration touches on this
host, what this host lacks of it, whether names are free, and free space. Then each disk
becomes one image NAME-TARGET.qcow2 that builds on nothing, whatever chain of exports
it comes from; its content is compared with the manifest, and the guest is defined. It
is not started. Whatever fails or dies on the way, either all is there or no guest is.

A name or a UUID that is in use here is never taken over: with --name the guest has a
name and a UUID of its own; where only the UUID is in use, it gets a new one. MAC addresses
stay unless --new-macs: never run both guests with the same.

An export may come from anybody. CDs and floppies are taken out of their drives, the
emulator is this host's own, and a configuration with host devices, files of the host,
hooks or QEMU options is refused, unless --trust says that all of it is wanted.

   virt-rotate import --dry-run /srv/backup/web-1
   virt-rotate import /srv/backup/web-1
   virt-rotate import /srv/backup/web-3 --name web-test --new-macs --to /srv/images

` + images.ExitHelp,
		Action: images.Action(e, 1, 1, importGuest),
	}
}

// An importer is a guest on its way onto this host.
type importer struct {
	*images.Run
	bundle *bundle.Bundle
	place  *bundle.Placing
	host   *libvirthost.Host
	look   func() (*observe.World, error) // at the whole host
	text   string                         // its configuration, as it is in the export
	guest  libvirthost.Imported
	report importReport
}

func importGuest(r *images.Run) error {
	r.Hint = ": what was begun is removed, and no guest was defined"
	i := &importer{Run: r}
	if err := i.open(); err != nil {
		return err
	}
	return session.With(r.Env, true, i.run)
}

// open reads the export and compares the sums of its files.
func (i *importer) open() (err error) {
	if i.bundle, err = bundle.Open(i.Arg(0)); err != nil {
		return err
	}
	c := bundle.Check{Store: i.Store, Progress: i.Progress}
	wrong, err := c.Verify(i.Ctx(), i.bundle)
	if err != nil {
		return err
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%w; virt-rotate verify %s tells more", &wrong[0], host.Quoted(i.bundle.Dir))
	}
	text, err := i.bundle.File(i.bundle.Kind(bundle.KindDomain))
	i.text = string(text)
	return err
}

func (i *importer) run(s *session.Session) error {
	i.host = s.Host
	i.look = func() (*observe.World, error) { return s.Rotator.Observer.Observe(i.Ctx()) }
	if i.host.Remote() {
		return &chain.RefusedError{Path: i.Arg(0), Reason: "the connection is to another host: run virt-rotate there"}
	}
	for _, step := range []func() error{i.identify, i.plan, i.configure, i.check} {
		if err := step(); err != nil {
			return err
		}
	}
	if err := i.place.Measure(i.Ctx()); err != nil {
		return err
	}
	if !i.Bool("dry-run") {
		if err := i.place.Place(i.Ctx(), i.define); err != nil {
			i.Moved = 0 // what was placed is gone again
			return err
		}
		i.putFirmware()
		i.host.Refresh(i.place.Dir)
	}
	return i.tell()
}

// identify decides on name and UUID: neither is taken from a guest that has it.
func (i *importer) identify() error {
	r := &i.report
	r.DryRun, r.Dir, r.Domain, r.UUID = i.Bool("dry-run"), i.bundle.Dir, i.bundle.Domain, i.bundle.UUID
	if i.IsSet("name") {
		if r.Domain = i.String("name"); !bundle.IsStem(r.Domain) {
			return term.Usagef("--name %q: want a name without '/', that begins with none of '.', '-' and space", r.Domain)
		}
	}
	if !bundle.IsStem(r.Domain) {
		return &chain.RefusedError{Path: r.Domain, Reason: "no image can be called like that: --name gives the guest another name"}
	}
	there, err := i.host.Has(r.Domain)
	if err != nil {
		return err
	}
	if there {
		return &chain.RefusedError{Path: r.Domain, Reason: "a guest of that name is here already: it stays as it is; --name gives the new one another name"}
	}
	owner, err := i.host.Owner(r.UUID)
	if err != nil {
		return err
	}
	if i.IsSet("name") || owner != "" {
		r.UUID, r.NewUUID = newUUID(), true
	}
	if owner != "" && !i.IsSet("name") {
		r.Notes = append(r.Notes, "it has a new UUID: "+owner+" has the one in the export")
	}
	return nil
}

// newUUID is a random one (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// plan decides where the images go.
func (i *importer) plan() (err error) {
	dir := i.String("to")
	if dir == "" {
		if dir, err = i.host.ImageDir(); err != nil {
			return err
		}
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	i.place = &bundle.Placing{Converter: i.Converter(), Bundle: i.bundle, Dir: dir, Domain: i.report.Domain, UUID: i.report.UUID, At: rotate.Boundary}
	if err := i.tellLeftovers(); err != nil {
		return err
	}
	planned, err := i.place.Plan()
	for _, p := range planned {
		i.report.Disks = append(i.report.Disks, importDisk{p.Target, p.Path, p.Format, &p.Bytes})
	}
	return err
}

// configure makes the configuration for this host.
func (i *importer) configure() error {
	machine, lacks, err := i.host.Machine(i.text)
	if err != nil {
		return err
	}
	if lacks != "" {
		return &chain.RefusedError{Path: i.report.Domain, Reason: "this host cannot run it: " + lacks}
	}
	disks := map[string]host.Layer{}
	for _, d := range i.report.Disks {
		disks[d.Target] = host.Layer{Path: d.Path, Kind: host.KindFile, Format: d.Format}
	}
	i.guest, err = libvirthost.ImportedXML(i.text, libvirthost.Import{Name: i.report.Domain, UUID: i.report.UUID, NewUUID: i.report.NewUUID,
		NewMACs: i.Bool("new-macs"), Trust: i.Bool("trust"), Disks: disks, Machine: machine, Variables: i.bundle.Kind(bundle.KindFirmware) != nil})
	i.report.Touches, i.report.Notes = i.guest.Touches, append(i.report.Notes, i.guest.Notes...)
	return err
}

// check tells what speaks against it, all of it, before anything is placed.
func (i *importer) check() (err error) {
	if i.report.Lacks, err = i.host.Lacks(i.guest.XML); err != nil {
		return err
	}
	owners, err := i.host.MACs()
	if err != nil {
		return err
	}
	for _, mac := range i.guest.MACs {
		if owner := owners[mac]; owner != "" {
			i.report.Notes = append(i.report.Notes, fmt.Sprintf("%s has the MAC address %s, too: never run both (--new-macs)", owner, mac))
		}
	}
	if i.Bool("dry-run") {
		return nil // tell says it
	}
	return i.refusal()
}

// refusal is why it is not done.
func (i *importer) refusal() error {
	var errs []error
	if len(i.report.Lacks) > 0 {
		errs = append(errs, &chain.RefusedError{Path: i.report.Domain, Reason: "this host has not: " + joined(i.report.Lacks)})
	}
	wants := slices.DeleteFunc(slices.Clone(i.guest.Touches), func(t libvirthost.Touch) bool { return !t.Consent })
	if len(wants) > 0 && !i.Bool("trust") {
		errs = append(errs, &chain.RefusedError{Path: i.report.Domain, Reason: fmt.Sprintf(
			"its configuration wants of this host: %s; --trust allows it, if you know where the export comes from", touchText(wants))})
	}
	return errors.Join(errs...)
}

func (i *importer) define() error {
	err := i.host.DefineNew(i.guest.XML, i.report.Domain, i.report.UUID)
	if errors.Is(err, libvirthost.ErrNotSure) {
		err = fmt.Errorf("%w: %w; the images stay in %s", bundle.ErrMaybeDefined, err, i.place.Dir)
	}
	return err
}
