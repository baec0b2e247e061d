package sr

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/libvirthost"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
)

func domainFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "define", Usage: "define the domain `NAME` on the disks of --vdi, with their snapshots"},
		&cli.StringFlag{Name: "domain-xml", Usage: "the domain is to be as in `FILE`; without --define the XML with the new disks is printed"},
		&cli.StringFlag{Name: "policy-name", Usage: "snapshots are named and marked as if policy `NAME` had them taken", Value: "xenserver"},
		&cli.BoolFlag{Name: "no-snapshots", Usage: "define the domain without snapshots"},
	}
}

const domainHelp = `With --define the VDIs of --vdi become the disks of a libvirt domain: in the order in
which they are told, or TARGET=UUID. The domain is that of --domain-xml; else the one
of that name, which must be shut off and have no snapshots; else a plain one is made
(q35, 1 GiB, disks sda, sdb … on SATA, no network). A VDI without data of its own that
builds on the only disk's chain is a snapshot of it, and becomes one of the domain,
dated as its VHD; the layer above its state is called UUID.SNAPSHOT.qcow2. virt-rotate
treats it as its own: a run drops it when the policy of the domain does not keep it.
Other VDIs on that chain are told, and not converted.
`

// A domain is one that is to be defined on what is converted, if any is; else all
// that --vdi names is converted.
type domain struct {
	*images.Run
	name    string // "": its XML is printed
	like    libvirthost.Template
	print   io.Writer // where to
	targets []string  // of the disks; "": the next one
	all     []string  // VDIs to be converted, snapshots included
	host    *libvirthost.Host
	vhdbridge.Domain
}

// domainOf looks at what is asked for, and at all that can be wrong with it before
// anything is converted.
func domainOf(r *images.Run, repo *vhdbridge.Repository) (d *domain, err error) {
	d = &domain{Run: r, name: r.String("define"), all: r.StringSlice("vdi")}
	if d.name == "" && !r.IsSet("domain-xml") {
		if r.IsSet("define") || r.IsSet("policy-name") || r.IsSet("no-snapshots") {
			err = term.Usagef("--policy-name and --no-snapshots go with --define NAME")
		}
		return d, err
	}
	switch {
	case r.Bool("flatten"):
		return nil, term.Usagef("--define and --domain-xml want chains: they do not go with --flatten")
	case len(d.all) == 0:
		return nil, term.Usagef("--define and --domain-xml want --vdi UUID for each disk of the domain")
	case !decide.IsPolicyName(r.String("policy-name")):
		return nil, term.Usagef("--policy-name %q: want letters, digits, '_', '.' and '-'", r.String("policy-name"))
	}
	if err := d.findDisks(repo); err != nil {
		return nil, err
	}
	if d.name == "" {
		d.print = r.Out
		quiet := *r.Env // the XML alone goes to standard output
		quiet.Out = r.Err
		r.Env = &quiet
	} else if err := d.findSnapshots(repo); err != nil {
		return nil, err
	}
	if err := d.findXML(); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// wants tells whether there is a domain, which needs all that is converted.
func (d *domain) wants() bool { return d.name != "" || d.print != nil }

// findDisks takes --vdi apart.
func (d *domain) findDisks(repo *vhdbridge.Repository) error {
	for i, text := range d.all {
		target, vdi, ok := strings.Cut(text, "=")
		if !ok {
			target, vdi = "", text
		}
		node := repo.Node(vdi)
		if node == nil {
			return fmt.Errorf("%s: %w", vdi, vhdbridge.ErrNoSuchVDI)
		}
		if slices.Contains(d.Disks, node) || i > 0 && (d.targets[0] == "") != (target == "") {
			return term.Usagef("--vdi %s: each disk once, and either all with a target or none", text)
		}
		d.Disks, d.targets = append(d.Disks, node), append(d.targets, target)
		d.all[i] = vdi
	}
	return nil
}

// findSnapshots finds those of the only disk. Which snapshots of several disks belong
// together is known to XenServer's database alone.
func (d *domain) findSnapshots(repo *vhdbridge.Repository) error {
	vdis := slices.Clone(d.all)
	if len(vdis) > 1 || d.Bool("no-snapshots") {
		for _, vdi := range vdis {
			taken, _, err := repo.Snapshots(vdi)
			if err != nil {
				return err
			}
			if len(taken) > 0 && !d.Bool("no-snapshots") {
				d.tell("%s: %s left out: which ones of several disks belong together is not in the repository", vdi, term.Plural(len(taken), "snapshot"))
			}
		}
		return nil
	}
	taken, beside, err := repo.Snapshots(vdis[0])
	for _, b := range beside {
		d.tell("%s builds on the same chain and is not converted, for %s", b.Node.VDI, b.Reason)
	}
	d.Taken = taken
	for _, t := range taken {
		d.all = append(d.all, t.Node.VDI)
	}
	return err
}

// tell is for people, also when the output is for programs.
func (d *domain) tell(format string, args ...any) {
	if !d.Bool("quiet") {
		fmt.Fprintln(d.Err, "virt-rotate:", term.Printable(fmt.Sprintf(format, args...)))
	}
}

// findXML gets what the domain is to be like, and sees that it has a place for each disk.
func (d *domain) findXML() error {
	if file := d.String("domain-xml"); file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		d.like.XML = string(text)
	}
	if d.name != "" {
		if err := d.ask(); err != nil {
			return err
		}
	}
	left, err := d.like.Rehearse(d.name, d.targets)
	if err != nil {
		return &term.ExitError{Code: term.ExitUsage, Err: err}
	}
	if len(left) > 0 {
		d.tell("the domain's own disks %s stay as they are", strings.Join(left, ", "))
	}
	return nil
}

// ask asks libvirt for the domain, as far as it is not given.
func (d *domain) ask() error {
	s, err := session.Open(d.Env, true)
	if err != nil {
		return err
	}
	d.host = s.Host
	if d.host.Remote() {
		return &chain.RefusedError{Path: d.name, Reason: "libvirt is on another host: it does not see the new images"}
	}
	d.like, err = d.host.TemplateOf(d.name, d.like.XML, len(d.Disks))
	var other *libvirthost.ReplaceError
	switch {
	case errors.As(err, &other):
		return &chain.RefusedError{Path: "domain", Reason: other.Error()}
	case err != nil || !d.like.Plain:
		return err
	}
	if i := slices.IndexFunc(d.targets, func(target string) bool { return target != "" }); i >= 0 {
		return term.Usagef("--vdi %s=…: there is no domain %s yet, and a plain one has no targets to choose from", d.targets[i], d.name)
	}
	return nil
}

func (d *domain) close() error {
	if d.host == nil {
		return nil
	}
	host := d.host
	d.host = nil
	return host.Close()
}

// place gives each layer of the domain its part in it.
func (d *domain) place(groups []vhdbridge.Group) ([]vhdbridge.Group, error) {
	return d.Place(groups, time.Now(), func(at time.Time, free func(string) bool) (name, description string) {
		return decide.Adopted(d.String("policy-name"), at, free)
	})
}

// define defines the domain, or prints its XML.
func (d *domain) define() error {
	if d.like.XML == "" {
		return nil
	}
	dir, err := filepath.Abs(d.String("to"))
	if err != nil {
		return err
	}
	n := d.newDomain(dir)
	if d.name == "" {
		text, _, _, err := libvirthost.DomainXML(n.XML, "", n.Disks)
		if err == nil {
			_, err = fmt.Fprintln(d.print, text)
		}
		return err
	}
	if !d.Bool("dry-run") {
		if _, err := d.host.Define(d.Ctx(), n); err != nil {
			return fmt.Errorf("the images are there, but the domain %s was not defined: %w", d.name, err)
		}
	}
	d.told(n)
	return nil
}

// newDomain is the domain on the images in dir.
func (d *domain) newDomain(dir string) libvirthost.NewDomain {
	layers := func(n *vhdbridge.Node) []host.Layer {
		var paths []string
		for _, l := range d.Layers(n) {
			paths = append(paths, filepath.Join(dir, d.Stem(l)+".qcow2"))
		}
		return libvirthost.FileChain(paths)
	}
	n := libvirthost.NewDomain{Name: d.name, XML: d.like.XML}
	for i, node := range d.Disks {
		chain := layers(node)
		n.Disks = append(n.Disks, libvirthost.NewDisk{Target: d.targets[i], Active: chain[len(chain)-1]})
	}
	for _, s := range d.Snapshots {
		overlay := layers(s.Overlay)
		n.Snapshots = append(n.Snapshots, libvirthost.NewSnapshot{Name: s.Name, Description: s.Description, Time: s.Time,
			Overlay: overlay[len(overlay)-1].Path, State: layers(s.State)})
	}
	return n
}

// told says what was defined.
func (d *domain) told(n libvirthost.NewDomain) {
	verb := "defined"
	if d.Bool("dry-run") {
		verb = "would define"
	}
	what := ""
	if d.like.Plain {
		what = ", a plain one: see to its memory, CPUs and network with virsh edit"
	}
	d.tell("%s domain %s%s", verb, n.Name, what)
	for i, s := range n.Snapshots {
		d.tell("%s snapshot %s, which is VDI %s, in %s", verb, s.Name, d.Snapshots[i].Node.VDI, s.State[len(s.State)-1].Path)
	}
}
