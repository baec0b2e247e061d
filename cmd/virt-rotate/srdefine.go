package main

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
	"github.com/virt-rotate/virt-rotate/internal/libvirthost"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
)

func srDomainFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "define", Usage: "define the domain `NAME` on the disks of --vdi, with their snapshots"},
		&cli.StringFlag{Name: "domain-xml", Usage: "the domain is to be as in `FILE`; without --define the XML with the new disks is printed"},
		&cli.StringFlag{Name: "policy-name", Usage: "snapshots are named and marked as if policy `NAME` had them taken", Value: "xenserver"},
		&cli.BoolFlag{Name: "no-snapshots", Usage: "define the domain without snapshots"},
	}
}

const srDomainHelp = `With --define the VDIs of --vdi become the disks of a libvirt domain: in the order in
which they are told, or TARGET=UUID. The domain is that of --domain-xml; else the one
of that name, which must be shut off and have no snapshots; else a plain one is made
(q35, 1 GiB, disks sda, sdb … on SATA, no network). A VDI without data of its own that
builds on the only disk's chain is a snapshot of it, and becomes one of the domain,
dated as its VHD; the layer above its state is called UUID.SNAPSHOT.qcow2. virt-rotate
treats it as its own: a run drops it when the policy of the domain does not keep it.
Other VDIs on that chain are told, and not converted.
`

// An srDomain is a domain that is to be defined on what is converted; nil is none, and
// then all that --vdi names is converted.
type srDomain struct {
	*imageRun
	name  string // "": its XML is printed
	xml   string
	print io.Writer // where to
	disks []srDisk
	taken []vhdbridge.Taken // snapshots of the first disk, the oldest first
	all   []string          // VDIs to be converted, snapshots included
	host  *libvirthost.Host // open, if there is a name
	plain bool              // nobody has said what the domain is to be like

	of    map[*vhdbridge.Node]vhdbridge.Group // the layers that are made
	snaps []srSnapshot                        // for each of taken
}

// An srSnapshot is what becomes of a snapshot of XenServer's.
type srSnapshot struct {
	vhdbridge.Taken
	overlay           *vhdbridge.Node // the layer above its state
	time              time.Time
	name, description string
}

type srDisk struct {
	target string // "": the next one
	vdi    string
	node   *vhdbridge.Node
}

// srDomain looks at what is asked for, and at all that can be wrong with it before
// anything is converted.
func (r *imageRun) srDomain(repo *vhdbridge.Repository) (d *srDomain, err error) {
	d = &srDomain{imageRun: r, name: r.String("define"), all: r.StringSlice("vdi")}
	if d.name == "" && !r.IsSet("domain-xml") {
		if r.IsSet("define") || r.IsSet("policy-name") || r.IsSet("no-snapshots") {
			err = usagef("--policy-name and --no-snapshots go with --define NAME")
		}
		return d, err
	}
	switch {
	case r.Bool("flatten"):
		return nil, usagef("--define and --domain-xml want chains: they do not go with --flatten")
	case len(d.all) == 0:
		return nil, usagef("--define and --domain-xml want --vdi UUID for each disk of the domain")
	case !decide.IsPolicyName(r.String("policy-name")):
		return nil, usagef("--policy-name %q: want letters, digits, '_', '.' and '-'", r.String("policy-name"))
	}
	if err := d.findDisks(repo); err != nil {
		return nil, err
	}
	if d.name == "" {
		d.print = r.out
		quiet := *r.env // the XML alone goes to standard output
		quiet.out = r.err
		r.env = &quiet
	} else if err := d.findSnapshots(repo); err != nil {
		return nil, err
	}
	if err := d.findXML(); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// findDisks takes --vdi apart.
func (d *srDomain) findDisks(repo *vhdbridge.Repository) error {
	for i, text := range d.all {
		disk := srDisk{vdi: text}
		if target, vdi, ok := strings.Cut(text, "="); ok {
			disk.target, disk.vdi = target, vdi
		}
		if disk.node = repo.Node(disk.vdi); disk.node == nil {
			return fmt.Errorf("%s: %w", disk.vdi, vhdbridge.ErrNoSuchVDI)
		}
		if slices.ContainsFunc(d.disks, func(o srDisk) bool { return o.node == disk.node || (o.target == "") != (disk.target == "") }) {
			return usagef("--vdi %s: each disk once, and either all with a target or none", text)
		}
		d.disks = append(d.disks, disk)
		d.all[i] = disk.vdi
	}
	return nil
}

// findSnapshots finds those of the only disk. Which snapshots of several disks belong
// together is known to XenServer's database alone.
func (d *srDomain) findSnapshots(repo *vhdbridge.Repository) error {
	if len(d.disks) > 1 || d.Bool("no-snapshots") {
		for _, disk := range d.disks {
			taken, _, err := repo.Snapshots(disk.vdi)
			if err != nil {
				return err
			}
			if len(taken) > 0 && !d.Bool("no-snapshots") {
				d.tell("%s: %s left out: which ones of several disks belong together is not in the repository", disk.vdi, plural(len(taken), "snapshot"))
			}
		}
		return nil
	}
	taken, beside, err := repo.Snapshots(d.disks[0].vdi)
	for _, b := range beside {
		d.tell("%s builds on the same chain and is not converted, for %s", b.Node.VDI, b.Reason)
	}
	d.taken = taken
	for _, t := range taken {
		d.all = append(d.all, t.Node.VDI)
	}
	return err
}

// tell is for people, also when the output is for programs.
func (d *srDomain) tell(format string, args ...any) {
	if !d.Bool("quiet") {
		fmt.Fprintln(d.err, "virt-rotate:", printable(fmt.Sprintf(format, args...)))
	}
}

// findXML gets what the domain is to be like, and sees that it has a place for each disk.
func (d *srDomain) findXML() error {
	if file := d.String("domain-xml"); file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		d.xml = string(text)
	}
	if d.name != "" {
		if err := d.ask(); err != nil {
			return err
		}
	}
	var disks []libvirthost.NewDisk
	for _, disk := range d.disks {
		disks = append(disks, libvirthost.NewDisk{Target: disk.target, Active: host.Layer{Path: "/", Kind: host.KindFile, Format: "qcow2"}})
	}
	_, _, left, err := libvirthost.DomainXML(d.xml, d.name, disks)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	if len(left) > 0 {
		d.tell("the domain's own disks %s stay as they are", strings.Join(left, ", "))
	}
	return nil
}

// ask asks libvirt for the domain, as far as it is not given.
func (d *srDomain) ask() error {
	s, err := d.open(true)
	if err != nil {
		return err
	}
	d.host = s.host
	if d.host.Remote() {
		return &chain.RefusedError{Path: d.name, Reason: "libvirt is on another host: it does not see the new images"}
	}
	own, err := d.host.Configuration(d.name)
	switch {
	case err != nil:
		return &chain.RefusedError{Path: "domain", Reason: err.Error()}
	case d.xml != "":
	case own != "":
		d.xml = own
	default:
		d.plain = true
		d.xml, err = d.host.PlainDomain(d.name, len(d.disks))
		for i := range d.disks {
			if err == nil && d.disks[i].target != "" {
				return usagef("--vdi %s=…: there is no domain %s yet, and a plain one has no targets to choose from", d.disks[i].target, d.name)
			}
		}
	}
	return err
}

func (d *srDomain) close() error {
	if d.host == nil {
		return nil
	}
	host := d.host
	d.host = nil
	return host.Close()
}

// vdis are those that are to be converted.
func (d *srDomain) vdis() []string { return d.all }

// layers leaves the snapshots' own nodes out, in which there is nothing.
func (d *srDomain) layers(groups []vhdbridge.Group) ([]vhdbridge.Group, error) {
	groups = slices.DeleteFunc(groups, func(g vhdbridge.Group) bool {
		return slices.ContainsFunc(d.taken, func(t vhdbridge.Taken) bool { return t.Node == g.Node })
	})
	var needed []*vhdbridge.Node
	for _, disk := range d.disks {
		needed = append(needed, disk.node)
	}
	for _, t := range d.taken {
		needed = append(needed, t.State)
	}
	for _, n := range needed {
		if !slices.ContainsFunc(groups, func(g vhdbridge.Group) bool { return g.Node == n }) {
			return nil, &chain.RefusedError{Path: n.Path, Reason: "its tree is damaged or in use: no domain can be defined on it"}
		}
	}
	d.of = map[*vhdbridge.Node]vhdbridge.Group{}
	for _, g := range groups {
		d.of[g.Node] = g
	}
	d.nameSnapshots()
	return groups, d.checkOverlays()
}

// checkOverlays wants each layer above the oldest snapshot's state to be the overlay of a
// snapshot: rotation takes any other for one that another program has put there.
func (d *srDomain) checkOverlays() error {
	if len(d.snaps) == 0 {
		return nil
	}
	for n := d.disks[0].node; n != d.snaps[0].State; n = d.of[n].Parent {
		if !slices.ContainsFunc(d.snaps, func(s srSnapshot) bool { return s.overlay == n }) {
			return &chain.RefusedError{Path: n.Path, Reason: "it stays a layer of its own above a snapshot, and is none's overlay: " +
				"no run would go on from there; leave out --keep-all, or snapshots with --no-snapshots"}
		}
	}
	return nil
}

// nameSnapshots decides times and names.
func (d *srDomain) nameSnapshots() {
	used := map[string]bool{}
	for i, at := range takenAt(d.taken, time.Now()) {
		s := srSnapshot{Taken: d.taken[i], overlay: d.above(d.taken[i].State), time: at}
		s.name, s.description = decide.Adopted(d.String("policy-name"), at, func(name string) bool { return !used[name] })
		used[s.name] = true
		d.snaps = append(d.snaps, s)
	}
}

// takenAt are the times of snapshots, the oldest first: in the order of their states and
// not in the future, whatever the images say, for retention goes by them.
func takenAt(taken []vhdbridge.Taken, now time.Time) []time.Time {
	times := make([]time.Time, len(taken))
	for i, t := range slices.Backward(taken) {
		if t.Node.Created.Before(now) {
			now = t.Node.Created
		}
		times[i] = now
	}
	return times
}

// above is the layer of the first disk's chain that builds on n.
func (d *srDomain) above(n *vhdbridge.Node) *vhdbridge.Node {
	layer := d.disks[0].node
	for d.of[layer].Parent != n {
		layer = d.of[layer].Parent
	}
	return layer
}

// stem is what the layer of n is called. The overlays of snapshots are called as
// rotation calls them: it merges no others, and deletes no others.
func (d *srDomain) stem(n *vhdbridge.Node) string {
	for _, s := range d.snaps {
		if s.overlay == n {
			return d.disks[0].node.VDI + "." + s.name
		}
	}
	return n.VDI
}

// define defines the domain, or prints its XML.
func (d *srDomain) define() error {
	if d.xml == "" {
		return nil
	}
	dir, err := filepath.Abs(d.String("to"))
	if err != nil {
		return err
	}
	n := libvirthost.NewDomain{Name: d.name, XML: d.xml}
	for _, disk := range d.disks {
		layers := d.below(dir, disk.node)
		n.Disks = append(n.Disks, libvirthost.NewDisk{Target: disk.target, Active: layers[len(layers)-1]})
	}
	if d.name == "" {
		text, _, _, err := libvirthost.DomainXML(d.xml, "", n.Disks)
		if err == nil {
			_, err = fmt.Fprintln(d.print, text)
		}
		return err
	}
	for _, s := range d.snaps {
		overlay := d.below(dir, s.overlay)
		n.Snapshots = append(n.Snapshots, libvirthost.NewSnapshot{Name: s.name, Description: s.description, Time: s.time,
			Overlay: overlay[len(overlay)-1].Path, State: d.below(dir, s.State)})
	}
	if !d.Bool("dry-run") {
		if _, err := d.host.Define(d.ctx(), n); err != nil {
			return fmt.Errorf("the images are there, but the domain %s was not defined: %w", d.name, err)
		}
	}
	d.told(n)
	return nil
}

// below is the chain that ends with n, base first.
func (d *srDomain) below(dir string, n *vhdbridge.Node) (layers []host.Layer) {
	for ; n != nil; n = d.of[n].Parent {
		layers = append(layers, host.Layer{Path: filepath.Join(dir, d.stem(n)+".qcow2"), Kind: host.KindFile, Format: "qcow2"})
	}
	slices.Reverse(layers)
	return layers
}

// told says what was defined.
func (d *srDomain) told(n libvirthost.NewDomain) {
	verb := "defined"
	if d.Bool("dry-run") {
		verb = "would define"
	}
	what := ""
	if d.plain {
		what = ", a plain one: see to its memory, CPUs and network with virsh edit"
	}
	d.tell("%s domain %s%s", verb, n.Name, what)
	for i, s := range n.Snapshots {
		d.tell("%s snapshot %s, which is VDI %s, in %s", verb, s.Name, d.snaps[i].Node.VDI, s.State[len(s.State)-1].Path)
	}
}
