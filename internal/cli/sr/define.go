package sr

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/libvirthost"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
	"github.com/virt-rotate/virt-rotate/vhdbridge/pool"
)

func domainFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "define", Usage: "define the domain `NAME` on the disks of --vm or --vdi, with their snapshots"},
		&cli.StringFlag{Name: "domain-xml", Usage: "the domain is to be as in `FILE`; without --define the XML with the new disks is printed"},
		&cli.StringFlag{Name: "vm", Usage: "only the disks of the guest `VM`, by name or UUID, and their snapshots; it is known by --names, or from the XVA"},
		&cli.StringFlag{Name: "bus", Usage: "of the disks of a guest that is defined by what is known of it, `BUS`: auto, virtio, sata or ide", Value: busAuto},
		&cli.StringSliceFlag{Name: "network", Usage: "where interfaces belong, `[NAME=]PLACE`: bridge:BRIDGE or network:NETWORK for what is called NAME on XenServer, or for all; may be repeated"},
		&cli.BoolFlag{Name: "fix-guest", Usage: "change the guest for KVM, by virt-v2v-in-place, in new layers above all snapshots; where that is missing tell what to change"},
		&cli.StringFlag{Name: "policy-name", Usage: "snapshots are named and marked as if policy `NAME` had them taken", Value: "xenserver"},
		&cli.BoolFlag{Name: "no-snapshots", Usage: "define the domain without snapshots"},
	}
}

const domainHelp = `With --names files are called by guests and disks: GUEST-diskN.qcow2, and
GUEST-diskN@SNAPSHOT.qcow2 of snapshots. With --vm, or where --define names a guest of
theirs, all disks of that guest are converted, with its snapshots.

With --define they become the disks of a libvirt domain; else those of --vdi do: in the order
in which they are told, or TARGET=UUID. The domain is that of --domain-xml; else the one
of that name, which must be shut off and have no snapshots; else one with the memory,
processors, firmware, addresses and order of booting that the guest had; where nothing is known
of it a plain one (q35, 1 GiB, disks sda, sdb … on SATA, no network). A VDI
without data of its own that builds on a disk's chain is a snapshot of it. Those of several
disks are one snapshot of the domain, if the names say that they are one of the guest, or if
they are dated within five seconds. The layer above a state is called DISK.SNAPSHOT.qcow2.
virt-rotate treats these snapshots as its own: a run drops them when the policy of the domain
does not keep them. Other VDIs on the chains are told, and not converted.
`

// A domain is one that is to be defined on what is converted, if any is; else all
// that --vdi names is converted.
type domain struct {
	target
	all []string // VDIs to be converted, snapshots included
	vhdbridge.Domain
}

// domainOf looks at what is asked for, and at all that can be wrong with it before
// anything is converted.
func domainOf(r *images.Run, repo *vhdbridge.Repository, names *pool.Pool) (d *domain, err error) {
	if err := checkDomainFlags(r); err != nil {
		return nil, err
	}
	d = &domain{target: target{Run: r, name: r.String("define")}, all: r.StringSlice("vdi")}
	if names != nil {
		d.Stems = repo.Stems()
	}
	if err := d.findGuest(names); err != nil {
		return nil, err
	}
	if !asked(r) {
		return d, d.addGuest(repo)
	}
	if len(d.all) == 0 && d.guest == nil {
		return nil, term.Usagef("--define and --domain-xml want --vdi UUID for each disk of the domain, or --vm VM")
	}
	if err := d.findDisks(repo); err != nil {
		return nil, err
	}
	d.toStdout()
	if d.name != "" {
		if err := d.findSnapshots(repo); err != nil {
			return nil, err
		}
	}
	if err := d.findXML(); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// findGuest finds the guest of --vm, or the one of the domain's name.
func (d *domain) findGuest(names *pool.Pool) (err error) {
	vm := d.String("vm")
	switch {
	case vm != "" && names == nil:
		return term.Usagef("--vm %s: which disks it has is told by --names", vm)
	case vm == "" && (d.name == "" || len(d.all) > 0 || names == nil):
		return nil
	}
	if d.guest, err = names.Guest(cmp.Or(vm, d.name)); err != nil {
		return &term.ExitError{Code: term.ExitUsage, Err: err}
	}
	if len(d.guest.Disks) == 0 {
		return term.Usagef("the VM %q has no disks, by what --names tell", d.guest.Name)
	}
	for _, disk := range d.guest.Disks {
		d.all = append(d.all, disk.VDI)
	}
	return nil
}

// addGuest lists the snapshots of the guest of --vm, which are converted with its disks.
func (d *domain) addGuest(repo *vhdbridge.Repository) error {
	if d.guest == nil {
		return nil
	}
	for _, disk := range d.guest.Disks {
		if repo.Node(disk.VDI) == nil {
			return d.elsewhere(&disk)
		}
	}
	for _, n := range repo.Nodes {
		if k := n.Known; k != nil && k.Snapshot && !n.Hidden && (k.Guest.UUID == d.guest.UUID || slices.Contains(d.all, k.SnapshotOf)) {
			d.all = append(d.all, n.VDI)
		}
	}
	return nil
}

// elsewhere tells that a disk of a guest is not in the repository.
func (d *domain) elsewhere(disk *pool.Disk) error {
	return fmt.Errorf("disk %s of %q (%s): %w in this repository: convert those that are with --vdi, and the others from theirs",
		disk.Device, d.guest.Name, disk.VDI, vhdbridge.ErrNoSuchVDI)
}

// findDisks takes --vdi apart, or what was found of the guest.
func (d *domain) findDisks(repo *vhdbridge.Repository) error {
	for i, text := range d.all {
		target, vdi, ok := strings.Cut(text, "=")
		if !ok {
			target, vdi = "", text
		}
		node := repo.Node(vdi)
		switch {
		case node == nil && d.guest != nil:
			return d.elsewhere(&d.guest.Disks[i])
		case node == nil:
			return fmt.Errorf("%s: %w", vdi, vhdbridge.ErrNoSuchVDI)
		case slices.Contains(d.Disks, node) || i > 0 && (d.targets[0] == "") != (target == ""):
			return term.Usagef("--vdi %s: each disk once, and either all with a target or none", text)
		}
		d.Disks, d.targets = append(d.Disks, node), append(d.targets, target)
		d.all[i] = vdi
	}
	return nil
}

// findSnapshots finds those of the disks.
func (d *domain) findSnapshots(repo *vhdbridge.Repository) error {
	if d.Bool("no-snapshots") {
		return nil
	}
	s, err := repo.SetsOf(d.all)
	if s == nil {
		return err
	}
	for _, b := range s.Beside {
		d.tell("%s builds on the same chain and is not converted, for %s", b.Node.VDI, b.Reason)
	}
	for _, vdi := range d.all {
		if n := s.Loose[vdi]; n > 0 {
			d.tell("%s: %s left out: which ones of several disks belong together is not in the repository; --names tells it", vdi, term.Plural(n, "snapshot"))
		}
	}
	d.Sets = s.Sets
	for _, set := range s.Sets {
		for i, t := range set.Taken {
			if t != nil {
				d.all = append(d.all, t.Node.VDI)
			} else {
				d.tell("the snapshot %s has nothing of the disk %s", setText(&set), d.Disks[i].VDI)
			}
		}
	}
	return err
}

// setText tells which snapshot it was.
func setText(s *vhdbridge.Set) string {
	var vdis []string
	for _, t := range s.Taken {
		if t != nil {
			vdis = append(vdis, t.Node.VDI)
		}
	}
	text := "VDI " + strings.Join(vdis, ", ")
	if s.Name != "" {
		text = fmt.Sprintf("%q, %s", s.Name, text)
	}
	return text
}

// shown is what a layer is called in the tree that is printed in the end.
func (d *domain) shown(n *vhdbridge.Node) string {
	if d.Stems == nil {
		return n.VDI
	}
	return d.Stem(n)
}

// covered are the nodes, by path, of the domain's snapshots that are no layers of their own: what
// they build on has their content.
func (d *domain) covered(groups []vhdbridge.Group) (paths []string) {
	for _, s := range d.Sets {
		for _, t := range s.Taken {
			if t != nil && !slices.ContainsFunc(groups, func(g vhdbridge.Group) bool { return g.Node == t.Node }) {
				paths = append(paths, t.Node.Path)
			}
		}
	}
	return paths
}

// place gives each layer of the domain its part in it.
func (d *domain) place(groups []vhdbridge.Group) ([]vhdbridge.Group, error) {
	return d.Place(groups, time.Now(), namer(d.String("policy-name")))
}

// namer names snapshots as if a policy had taken them.
func namer(policy string) vhdbridge.Namer {
	return func(at time.Time, called string, free func(string) bool) (name, description string) {
		return decide.Adopted(policy, noteOf(called), at, free)
	}
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
	var was []string
	for i := range d.Snapshots {
		was = append(was, setText(&d.Snapshots[i].Set))
	}
	return d.defineAs(d.newDomain(dir), was)
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
		d.chains = append(d.chains, chain)
		n.Disks = append(n.Disks, libvirthost.NewDisk{Target: d.targets[i], Active: chain[len(chain)-1]})
	}
	for _, s := range d.Snapshots {
		snap := libvirthost.NewSnapshot{Name: s.Name, Description: s.Description, Time: s.Time}
		for i := range d.Disks {
			if s.States[i] != nil {
				overlay := layers(s.Overlays[i])
				snap.Disks = append(snap.Disks, libvirthost.NewState{Disk: i, Overlay: overlay[len(overlay)-1].Path, State: layers(s.States[i])})
			}
		}
		n.Snapshots = append(n.Snapshots, snap)
	}
	return n
}
