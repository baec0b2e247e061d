package sr

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/convert"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/libvirthost"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
	"github.com/virt-rotate/virt-rotate/vhdbridge/pool"
	"github.com/virt-rotate/virt-rotate/vhdbridge/xva"
)

// An exportedGuest is the guest of an export, whose disks become chains: each snapshot that
// the export has is a whole disk, and a layer has what differs from the one before.
type exportedGuest struct {
	target
	stacks    [][]xva.Disk // of each disk of the guest: its snapshots, the oldest first, and what it is now
	snapshots []exportedSnapshot
}

type exportedSnapshot struct {
	called            string
	at                time.Time
	name, description string
	layer             map[int]int // by disk: the place in its stack
}

// guestOf is the guest that is asked for, if any is.
func guestOf(r *images.Run, vm xva.VM) (*exportedGuest, error) {
	if err := checkDomainFlags(r); err != nil {
		return nil, err
	}
	if !asked(r) && !r.IsSet("vm") {
		return nil, nil
	}
	switch {
	case r.Bool("salvage"):
		return nil, term.Usagef("--define, --domain-xml and --vm want an export that is whole: they do not go with --salvage")
	case r.IsSet("vdi"):
		return nil, term.Usagef("of an XVA, --define and --domain-xml take all disks of the guest: they do not go with --vdi")
	case r.String("output-format") != "qcow2":
		return nil, term.Usagef("--define, --domain-xml and --vm make chains: -O %s does not go with them", r.String("output-format"))
	}
	p := pool.OfExport(vm)
	g := &exportedGuest{target: target{Run: r, name: r.String("define")}}
	guests, err := p.Guests(), error(nil)
	if wanted := r.String("vm"); wanted == "" && len(guests) == 1 {
		g.guest = guests[0]
	} else if g.guest, err = p.Guest(cmp.Or(wanted, g.name)); err != nil {
		return nil, &term.ExitError{Code: term.ExitUsage, Err: err}
	}
	if err := g.stack(vm, p.VDIs()); err != nil {
		return nil, err
	}
	if !asked(r) {
		return g, nil
	}
	g.toStdout()
	if err := g.findXML(); err != nil {
		return nil, errors.Join(err, g.close())
	}
	return g, nil
}

// stack finds the disks of the guest, and what its snapshots have of them.
func (g *exportedGuest) stack(vm xva.VM, vdis map[string]vhdbridge.VDI) error {
	for _, d := range g.guest.Disks {
		i := slices.IndexFunc(vm.Disks, func(x xva.Disk) bool { return x.UUID == d.VDI })
		if i < 0 {
			return &chain.RefusedError{Path: g.guest.Name, Reason: fmt.Sprintf("the export tells of its disk %s (%s), and has none of that UUID", d.Device, d.VDI)}
		}
		g.stacks, g.targets = append(g.stacks, []xva.Disk{vm.Disks[i]}), append(g.targets, "")
	}
	if len(g.stacks) == 0 {
		return &chain.RefusedError{Path: g.guest.Name, Reason: "it has no disks"}
	}
	if g.Bool("no-snapshots") {
		return nil
	}
	byVM := map[string][]xva.Disk{}
	var order []string
	for _, x := range vm.Disks {
		if o := vdis[x.UUID].Guest; o.Snapshot != "" && o.UUID == g.guest.UUID {
			if byVM[o.Snapshot] == nil {
				order = append(order, o.Snapshot)
			}
			byVM[o.Snapshot] = append(byVM[o.Snapshot], x)
		}
	}
	slices.SortStableFunc(order, func(a, b string) int {
		return vdis[byVM[a][0].UUID].SnapshotTime.Compare(vdis[byVM[b][0].UUID].SnapshotTime)
	})
	for _, snapshot := range order {
		g.addSnapshot(byVM[snapshot], vdis)
	}
	g.nameSnapshots()
	return nil
}

// addSnapshot puts the disks of a snapshot below what the guest's are now.
func (g *exportedGuest) addSnapshot(disks []xva.Disk, vdis map[string]vhdbridge.VDI) {
	first := vdis[disks[0].UUID]
	s := exportedSnapshot{called: first.Guest.SnapshotName, at: first.SnapshotTime, layer: map[int]int{}}
	for _, x := range disks {
		i := g.diskOf(x, vdis[x.UUID])
		if i < 0 || s.layer[i] > 0 {
			g.tell("the snapshot %q has the disk %s (%s), which is none that the guest has: it is left out", s.called, x.Name, x.UUID)
			continue
		}
		now := len(g.stacks[i]) - 1
		if x.Size > g.stacks[i][now].Size || now > 0 && x.Size < g.stacks[i][now-1].Size {
			g.tell("the snapshot %q has the disk %s in another size than what came after: it is left out", s.called, x.UUID)
			continue
		}
		g.stacks[i] = slices.Insert(g.stacks[i], now, x)
		s.layer[i] = now
	}
	if len(s.layer) > 0 {
		g.snapshots = append(g.snapshots, s)
	}
}

// diskOf is which of the guest's disks another was taken of: by what the export says, else by
// its number.
func (g *exportedGuest) diskOf(x xva.Disk, v vhdbridge.VDI) int {
	for i, d := range g.guest.Disks {
		if v.SnapshotOf != "" && d.VDI == v.SnapshotOf || v.SnapshotOf == "" && d.Device == x.Device {
			return i
		}
	}
	return -1
}

func (g *exportedGuest) nameSnapshots() {
	now, used := time.Now(), map[string]bool{}
	for i := range slices.Backward(g.snapshots) {
		if at := g.snapshots[i].at; at.IsZero() || at.After(now) {
			g.snapshots[i].at = now
		}
		now = g.snapshots[i].at
	}
	name := namer(g.String("policy-name"))
	for i := range g.snapshots {
		s := &g.snapshots[i]
		s.name, s.description = name(s.at, s.called, func(name string) bool { return !used[name] })
		used[s.name] = true
	}
}

// stem is the name of the i-th disk's files.
func (g *exportedGuest) stem(i int) string {
	d := g.guest.Disks[i]
	return cmp.Or(vhdbridge.DiskName(g.guest.Name, d.Device), d.VDI)
}

// file is what the k-th layer of the i-th disk is called.
func (g *exportedGuest) file(i, k int) string {
	if k == 0 {
		return g.stem(i) + ".qcow2"
	}
	for n := range g.snapshots { // the layer above a snapshot's is its overlay
		if at, there := g.snapshots[n].layer[i]; there && at == k-1 {
			return g.stem(i) + "." + g.snapshots[n].name + ".qcow2"
		}
	}
	return "" // every layer but the lowest is above a snapshot
}

// disks are all that the export has of the guest, in the order of the layers.
func (g *exportedGuest) disks() (all []xva.Disk) {
	for _, stack := range g.stacks {
		all = append(all, stack...)
	}
	return all
}

// build makes layers of whole disks, which lie under temporary names: all but the lowest of
// each are made anew, with what differs from those below.
func (p *xvaRun) build() error {
	for i, stack := range p.guest.stacks {
		var below []chain.Node
		for k, x := range stack {
			c := p.of[x.ID]
			if k > 0 {
				if err := p.differ(c, below, p.guest.file(i, k-1)); err != nil {
					return fmt.Errorf("%s: %w", c.Path, err)
				}
			}
			n, err := p.Store.Node(c.Made.Path(), c.Format.Name)
			if err != nil {
				return err
			}
			below = append(below, n)
		}
	}
	return nil
}

// differ lets the image of c have no more than what differs from the layers below it.
func (p *xvaRun) differ(c *convert.Conversion, below []chain.Node, backing string) error {
	whole := c.Made
	n, err := p.Store.Node(whole.Path(), c.Format.Name)
	if err != nil {
		return err
	}
	c.New.Backing, c.New.BackingFormat, c.Made = backing, c.Format.Name, nil
	to, err := p.Converter().Begin(c)
	if err == nil {
		show, end := p.Progress("compare", c.New.Size)
		c.Bytes = 0
		err = p.Store.Increment(p.Ctx(), &chain.Increment{Base: below, Disk: []chain.Node{n}}, to, func(n int64) {
			c.Bytes += n
			show(n)
		})
		end()
		err = errors.Join(err, to.Close())
	}
	return errors.Join(err, whole.Discard())
}

// defineGuest defines the domain on the images, if one is wanted.
func (p *xvaRun) defineGuest() error {
	g := p.guest
	if g == nil || !g.wants() {
		return nil
	}
	dir, err := filepath.Abs(p.dest)
	if err != nil {
		return err
	}
	n := libvirthost.NewDomain{Name: g.name, XML: g.like.XML}
	for i, stack := range g.stacks {
		layers := g.layers(dir, i, len(stack))
		g.chains = append(g.chains, layers)
		n.Disks = append(n.Disks, libvirthost.NewDisk{Target: g.targets[i], Active: layers[len(layers)-1]})
	}
	var was []string
	for _, s := range g.snapshots {
		snap := libvirthost.NewSnapshot{Name: s.name, Description: s.description, Time: s.at}
		for i := range g.stacks {
			if k, there := s.layer[i]; there {
				layers := g.layers(dir, i, k+2)
				snap.Disks = append(snap.Disks, libvirthost.NewState{Disk: i, Overlay: layers[k+1].Path, State: layers[:k+1]})
			}
		}
		n.Snapshots, was = append(n.Snapshots, snap), append(was, fmt.Sprintf("%q", s.called))
	}
	return g.defineAs(n, was)
}

// layers are the n lowest layers of the i-th disk.
func (g *exportedGuest) layers(dir string, i, n int) []host.Layer {
	var paths []string
	for k := range n {
		paths = append(paths, filepath.Join(dir, g.file(i, k)))
	}
	return libvirthost.FileChain(paths)
}

// planGuest decides the files of a guest's layers.
func (p *xvaRun) planGuest(format *formats.Format, o *images.Options) {
	for i, stack := range p.guest.stacks {
		for k, d := range stack {
			p.addDisk(d, p.guest.file(i, k), format, o)
		}
	}
}
