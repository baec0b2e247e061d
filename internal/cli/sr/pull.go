package sr

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
	"github.com/virt-rotate/virt-rotate/vhdbridge/xapi"
)

func pullCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "pull", Usage: "read the disks of guests of a live XenServer, with their snapshots, over its API",
		ArgsUsage: "https://HOST", OnUsageError: term.UsageError,
		Flags: append(append(images.WriteFlags(), hostFlags()...),
			&cli.BoolFlag{Name: "list", Usage: "list the guests of the pool"},
			&cli.StringSliceFlag{Name: "vm", Usage: "the guest of that name or UUID, `NAME`; may be repeated"},
			&cli.StringFlag{Name: "to", Usage: "directory for the disks, `DEST`; it is made if it is not there"},
			&cli.BoolFlag{Name: "snapshot", Usage: "have a snapshot of each guest taken that is not shut off, and read that"},
			&cli.BoolFlag{Name: "keep-snapshot", Usage: "that snapshot is to stay: do not tell how it is removed"},
			&cli.StringFlag{Name: "rate", Usage: "read `BYTES` a second at most, as in 50M"}),
		Description: `The disks of the guests, and of their snapshots, are read over HTTPS and become a
repository of VHDs in DEST, which sr scan, check, coalesce and convert take as any; what the
pool calls them is in DEST/pool.xml, for --names. The oldest state is read in full, each
newer one as what has changed since; whatever kind the repository of the pool is. What is
there already, whole, is not read again: the same command goes on after an interruption, and
later reads what is new.

Nothing is changed on the host, and no disk that a guest writes to can be read: of a guest
that runs its snapshots come, and the exit status is 3. With --snapshot a snapshot is taken
first, whose content stands for the guest's disks, and how it is removed is told; virt-rotate
itself removes none. Shut the guest off and pull once more for what it has written since.

The certificate of the host is verified by the system's authorities, by those of --cacert,
or, as most hosts sign their own, by --fingerprint, once for each host of the pool that may
be asked: openssl s_client -connect HOST:443 </dev/null | openssl x509 -noout -fingerprint -sha256

   virt-rotate sr pull https://xen1 --fingerprint sha256:AB:CD:… --password-file /root/xen --list
   virt-rotate sr pull https://xen1 --cacert pool.pem --password-file /root/xen --vm web --to /srv/pulled
   virt-rotate sr convert /srv/pulled --to /var/lib/libvirt/images

` + exitHelp,
		Action: images.Action(e, 1, 1, pull),
	}
}

// passwordVariable has the password where no file has.
const passwordVariable = "VIRT_ROTATE_XEN_PASSWORD" //nolint:gosec // the name of a variable

func hostFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "user", Usage: "log in as `USER`", Value: "root"},
		&cli.StringFlag{Name: "password-file", Usage: "the password is in `FILE`; without it, in the environment: " + passwordVariable},
		&cli.StringFlag{Name: "cacert", Usage: "certificates of authorities are in `FILE` (PEM)"},
		&cli.StringSliceFlag{Name: "fingerprint", Usage: "the host's certificate has the fingerprint `SHA256`, as in sha256:AB:CD:…; may be repeated"},
	}
}

// pull lists guests, or reads the disks of some.
func pull(r *images.Run) (err error) {
	r.Hint = ": what is there whole stays; the same command goes on"
	config, rate, err := pullOptions(r)
	if err != nil {
		return err
	}
	c, err := xapi.Dial(r.Ctx(), config)
	if err != nil {
		return certificateHelp(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Ctx()), 10*time.Second)
		defer cancel()
		err = errors.Join(err, c.Logout(ctx))
	}()
	v, err := c.Inventory(r.Ctx())
	if err != nil {
		return err
	}
	for _, text := range v.Odd {
		tellPull(r, text)
	}
	if r.Bool("list") {
		return listGuests(r, c, v)
	}
	p := &pullRun{Run: r, client: c, inventory: v}
	dir, err := filepath.Abs(r.String("to"))
	if err != nil {
		return err
	}
	p.puller = &xapi.Puller{Client: c, Dir: dir, Rate: rate, Progress: r.Progress, Warn: func(text string) { tellPull(r, text+"; it is tried again") }}
	return p.run()
}

// certificateHelp tells what to do about a certificate that is not known here.
func certificateHelp(err error) error {
	var unknown *tls.CertificateVerificationError
	var other *xapi.CertificateError
	switch {
	case errors.As(err, &unknown) && len(unknown.UnverifiedCertificates) > 0:
		return fmt.Errorf("%w; if the host signs its own, compare sha256:%x with what it says itself "+
			"(openssl x509 -in /etc/xensource/xapi-ssl.pem -noout -fingerprint -sha256), and name it: --fingerprint; or name the authority: --cacert",
			err, sha256.Sum256(unknown.UnverifiedCertificates[0].Raw))
	case errors.As(err, &other):
		return fmt.Errorf("%w; if its certificate was renewed, which the host itself tells "+
			"(openssl x509 -in /etc/xensource/xapi-ssl.pem -noout -fingerprint -sha256), name that one", err)
	}
	return err
}

// pullOptions looks at what the command line says.
func pullOptions(r *images.Run) (config xapi.Config, rate int64, err error) {
	config = xapi.Config{URL: r.Arg(0), User: r.String("user"), Fingerprints: r.StringSlice("fingerprint")}
	switch {
	case !strings.HasPrefix(config.URL, "https://"):
		return config, 0, term.Usagef("%s: want https://HOST", config.URL)
	case r.Bool("list") && (r.IsSet("vm") || r.IsSet("to") || r.Bool("snapshot")):
		return config, 0, term.Usagef("--list goes without --vm, --to and --snapshot")
	case !r.Bool("list") && (!r.IsSet("vm") || r.String("to") == ""):
		return config, 0, term.Usagef("sr pull wants --vm NAME and --to DEST, or --list")
	case r.Bool("keep-snapshot") && !r.Bool("snapshot"):
		return config, 0, term.Usagef("--keep-snapshot goes with --snapshot")
	case r.IsSet("cacert") && r.IsSet("fingerprint"):
		return config, 0, term.Usagef("--cacert and --fingerprint exclude each other")
	}
	for _, text := range config.Fingerprints {
		if _, err := xapi.ParseFingerprint(text); err != nil {
			return config, 0, term.Usagef("--%w", err)
		}
	}
	if text := r.String("rate"); text != "" {
		if rate, err = formats.ParseSize(text); err != nil || rate < 1 {
			return config, 0, term.Usagef("--rate %s: want bytes a second, as in 50M", text)
		}
	}
	if config.Password, err = password(r); err != nil {
		return config, 0, err
	}
	if file := r.String("cacert"); file != "" {
		config.Roots, err = authorities(file)
	}
	return config, rate, err
}

// password is never on the command line, where everybody sees it.
func password(r *images.Run) (string, error) {
	file := r.String("password-file")
	if file == "" {
		if text, ok := os.LookupEnv(passwordVariable); ok {
			return text, nil
		}
		return "", term.Usagef("sr pull wants the password: --password-file FILE, or %s in the environment", passwordVariable)
	}
	b, err := os.ReadFile(file)
	return strings.TrimRight(string(b), "\r\n"), err
}

// A pullRun is one run of sr pull.
type pullRun struct {
	*images.Run
	client    *xapi.Client
	inventory *xapi.Inventory
	puller    *xapi.Puller
	report    pullReport
}

func (p *pullRun) run() error {
	p.report = newPullReport(p.Run, p.client, p.puller.Dir)
	vms, err := p.guests()
	if err != nil {
		return err
	}
	if !p.Bool("dry-run") {
		if err := os.MkdirAll(p.puller.Dir, 0o711); err != nil {
			return err
		}
		lock, err := vfs.AcquireRunLock(filepath.Join(p.puller.Dir, vhdbridge.LockName))
		if err != nil {
			return err
		}
		defer lock.Close()
	}
	for _, vm := range vms {
		if err := p.guest(vm); err != nil {
			return err
		}
	}
	if !p.Bool("dry-run") {
		if err := p.puller.Names(p.inventory); err != nil {
			return err
		}
	}
	return p.end()
}

// guests finds those of --vm, each once.
func (p *pullRun) guests() (vms []*xapi.VM, err error) {
	seen := map[*xapi.VM]bool{}
	for _, name := range p.StringSlice("vm") {
		vm, err := p.inventory.Find(name)
		if err != nil {
			return nil, term.Usagef("--vm %w", err)
		}
		if !seen[vm] {
			vms = append(vms, vm)
		}
		seen[vm] = true
	}
	return vms, nil
}

// guest reads one.
func (p *pullRun) guest(vm *xapi.VM) error {
	if p.Bool("dry-run") {
		return p.rehearse(vm)
	}
	now, err := p.snapshot(vm)
	if err != nil {
		return err
	}
	if err := p.room(vm, now); err != nil {
		return err
	}
	plan := p.inventory.Plan(vm, now)
	result, err := p.puller.Pull(p.Ctx(), plan)
	p.report.add(vm, result)
	if err == nil && now != nil && len(result.Left) == len(plan.Left) {
		err = p.puller.Took(vm, now.UUID, true)
	}
	return err
}

// rehearse tells what would be read. A snapshot that would be taken has what the disks have.
func (p *pullRun) rehearse(vm *xapi.VM) error {
	as := *vm
	if p.Bool("snapshot") && vm.PowerState != "Halted" {
		tellPull(p.Run, fmt.Sprintf("a snapshot of %q would be taken", vm.Name))
		as.PowerState = "Halted"
	}
	result, err := p.puller.Rehearse(p.inventory.Plan(&as, nil))
	if err == nil {
		p.report.add(vm, result)
	}
	return err
}

// snapshot has one taken of a guest that is not off, if that was asked for; one that a run
// which was broken off has asked for is gone on with.
func (p *pullRun) snapshot(vm *xapi.VM) (*xapi.VM, error) {
	if !p.Bool("snapshot") || vm.PowerState == "Halted" {
		return nil, nil
	}
	known, err := p.puller.Unfinished(vm)
	if err != nil {
		return nil, err
	}
	if now := p.inventory.VM(known); now != nil && known != "" {
		tellPull(p.Run, fmt.Sprintf("it goes on with the snapshot %q of %q, which a run that was broken off has had taken", now.Name, vm.Name))
		p.report.took(vm, now)
		return now, nil
	}
	ref, err := p.client.Snapshot(p.Ctx(), vm, "virt-rotate "+p.Clock().UTC().Format("2006-01-02 15:04:05"))
	if err != nil {
		return nil, err
	}
	if p.inventory, err = p.client.Inventory(p.Ctx()); err != nil {
		return nil, fmt.Errorf("a snapshot of %s was taken (%s): %w", vm.Name, ref, err)
	}
	now := p.inventory.VM(ref)
	if now == nil {
		return nil, fmt.Errorf("the host says that it took a snapshot of %s, %s, and does not have it", vm.Name, ref)
	}
	p.report.took(vm, now)
	return now, p.puller.Took(vm, now.UUID, false)
}

// room refuses what cannot fit: what the host says that the disks take, in full for the
// first state, and for others no less than nothing.
func (p *pullRun) room(vm, now *xapi.VM) error {
	result, err := p.puller.Rehearse(p.inventory.Plan(vm, now))
	if err != nil {
		return err
	}
	need := int64(0)
	for _, got := range result.Pulled {
		if !got.There && got.Base == "" {
			need += got.Bytes
		}
	}
	space, err := vfs.SpaceAt(p.puller.Dir)
	if err == nil && need > space.Free {
		err = &chain.RefusedError{Path: p.puller.Dir, Reason: fmt.Sprintf("the disks of %q take %d bytes, and %d are free", vm.Name, need, space.Free)}
	}
	return err
}
