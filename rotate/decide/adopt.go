package decide

import (
	"fmt"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// AdoptOptions say how internal snapshots become external ones.
type AdoptOptions struct {
	DropMemory bool // saved memory stays in the images alone
	Plan       bool // only tell what would be done
}

// ReasonExternal is why the metadata of an adopted snapshot is redefined.
const ReasonExternal = "libvirt lists it as an external snapshot"

// An Adoption is a plan of how the internal snapshots of a domain become layers. Snapshots
// that libvirt lists keep their names and their parents; those that only an image knows are
// listed from then on.
type Adoption struct {
	Plan      Plan
	Disks     []AdoptedDisk
	Snapshots []host.External // parents first

	o AdoptOptions
}

// An AdoptedDisk is one whose image has internal snapshots.
type AdoptedDisk struct {
	Target string
	Chain  []host.Layer   // as it is: the last is the image
	Layers []AdoptedLayer // what others are built on comes first, what the guest sees now last

	states []host.InternalState
	stem   string
}

// An AdoptedLayer is what becomes of one state of an image.
type AdoptedLayer struct {
	Snapshot string // "" for what the guest sees now
	ID, Name string // of the internal snapshot
	On       int    // place in Layers of what it is built on; -1 for what the image builds on
	Path     string
	Memory   string // the file for the saved memory; "" for none
	Bytes    int64  // of data, at most
}

// Image is the image with the internal snapshots.
func (d *AdoptedDisk) Image() *host.Layer { return &d.Chain[len(d.Chain)-1] }

// Active is what the guest is to write to.
func (d *AdoptedDisk) Active() string { return d.Layers[len(d.Layers)-1].Path }

// ChainTo is the chain that ends with the i-th layer, base first.
func (d *AdoptedDisk) ChainTo(i int) []host.Layer {
	var up []host.Layer
	for ; i >= 0; i = d.Layers[i].On {
		up = append(up, host.Layer{Path: d.Layers[i].Path, Format: d.Image().Format, Kind: host.KindFile})
	}
	slices.Reverse(up)
	var all []host.Layer
	for _, l := range d.Chain[:len(d.Chain)-1] {
		all = append(all, host.Layer{Path: l.Path, Format: l.Format, Kind: l.Kind, Volume: l.Volume})
	}
	return append(all, up...)
}

// below is what the i-th layer is built on, or "".
func (d *AdoptedDisk) below(i int) string {
	chain := d.ChainTo(i)
	if len(chain) < 2 {
		return ""
	}
	return chain[len(chain)-2].Path
}

// AdoptCommand is what makes layers of a domain's internal snapshots.
func AdoptCommand(domain string) string {
	return "virt-rotate adopt --internal " + host.Quoted(domain)
}

// WithInternal lists the chains of the disks whose images have internal snapshots, by target.
func WithInternal(d *host.Domain) map[string][]host.Layer {
	found := map[string][]host.Layer{}
	for i := range d.Disks {
		disk := &d.Disks[i]
		if n := len(disk.Chain); n > 0 && !disk.ReadOnly && disk.Chain[n-1].Image != nil && disk.Chain[n-1].Image.Snapshots > 0 {
			found[disk.Target] = disk.Chain
		}
	}
	return found
}

// Adopt decides how the internal snapshots of the domain become layers, or why not. States
// are those of the images that WithInternal names, by target. Whether libvirt's records can
// be written without loss it does not know: ask Host.Externals.
//
// Unread are the images whose states could not be read.
func (c Case) Adopt(states map[string][]host.InternalState, unread []Refusal, o AdoptOptions) *Adoption {
	rule := *c.Rule
	rule.OnUnsuitable = policy.UnsuitableRefuse
	c.Rule = &rule
	a := &Adoption{o: o}
	b := c.builder()
	a.decide(b, states, unread)
	if len(b.plan.Refused) > 0 {
		b.plan.Steps = []Step{}
	}
	a.Plan = b.plan
	return a
}

func (a *Adoption) decide(b *builder, states map[string][]host.InternalState, unread []Refusal) {
	if len(states) == 0 && !slices.ContainsFunc(b.d.Snapshots, func(s host.Snapshot) bool { return s.Internal }) {
		return
	}
	a.check(b, states)
	if len(b.plan.Refused) == 0 {
		b.plan.refuseOnce(unread)
	}
	if len(b.plan.Refused) > 0 {
		return
	}
	a.match(b)
	if len(b.plan.Refused) > 0 {
		return
	}
	a.place(b)
	a.reserve(b)
	a.steps(b)
	a.tell(b)
}

// check refuses what speaks against it before the snapshots are looked at.
func (a *Adoption) check(b *builder, states map[string][]host.InternalState) {
	d := b.d
	switch in := b.w.Intents[d.UUID]; {
	case in != nil && in.Broken != "":
		b.refuse(host.CodeIntent, "", in.Broken)
	case in != nil && in.Adoption == nil:
		b.refuse(host.CodeIntent, "", "an interrupted run is to be finished first: virt-rotate run "+host.Quoted(d.Name))
	}
	if d.State.Live() {
		b.refuse(host.CodeState, "", "the guest runs: shut it down first (virsh shutdown "+host.Quoted(d.Name)+")")
	}
	if d.Checkpoints > 0 {
		b.refuse(host.CodeCheckpoints, "", "checkpoints of a backup program name bitmaps in the image, which new layers would not have: end them first (virsh checkpoint-delete while the guest runs)")
	}
	b.checkGuest()
	b.checkTargets()
	a.checkSnapshots(b)
	for i := range b.disks {
		if disk := &b.disks[i]; states[disk.Target] != nil {
			b.also = append(b.also, disk.Target)
			a.checkDisk(b, disk)
			a.Disks = append(a.Disks, AdoptedDisk{Target: disk.Target, Chain: b.d.Disks[i].Chain, states: states[disk.Target]})
		}
	}
}

// checkSnapshots refuses a domain that has external snapshots, too: what is above and what is
// inside of what cannot be told.
func (a *Adoption) checkSnapshots(b *builder) {
	for i := range b.d.Snapshots {
		s := &b.d.Snapshots[i]
		if s.Internal && !slices.ContainsFunc(s.Disks, func(sd host.SnapshotDisk) bool { return sd.Overlay != "" }) {
			continue
		}
		name := host.Quoted(b.d.Name)
		b.refuse(host.CodeInternal, "", fmt.Sprintf("snapshot %s is an external one, and not all can be adopted together with the internal ones: if it is not needed, end it first (virsh snapshot-delete %s %s); if it is, give up the internal ones in the same way, or keep their states with virt-rotate image unfold", s.Name, name, host.Quoted(s.Name)))
		return
	}
}

// checkDisk refuses a disk whose image could not be read as a whole, but for its snapshots.
func (a *Adoption) checkDisk(b *builder, disk *host.Disk) {
	top := disk.Active()
	image := *top.Image
	image.Snapshots = 0
	top.Image = &image // the builder's own
	if !b.checkKind(disk) {
		return
	}
	b.checkWriters(disk)
	b.checkChain(disk)
	b.checkJob(disk)
	if r := b.sharedWith(disk); r != nil {
		b.plan.Refused = append(b.plan.Refused, *r)
	}
}

// reserve sees that all layers have room.
func (a *Adoption) reserve(b *builder) {
	for i := range a.Disks {
		for k := range a.Disks[i].Layers {
			l := &a.Disks[i].Layers[k]
			need := l.Bytes + min(l.Bytes, withTables(a.Disks[i].Image().Size)-a.Disks[i].Image().Size) + emptyOverlay
			if l.Memory != "" {
				need += a.Disks[i].state(l.ID).Memory
			}
			if r := b.reserveOverlay(l.Path, need); r != nil {
				r.Detail = "all layers are made before anything is switched: " + r.Detail
				b.plan.Refused = append(b.plan.Refused, *r)
				return
			}
		}
	}
}

// steps tells what is done, in order.
func (a *Adoption) steps(b *builder) {
	for i := range a.Disks {
		d := &a.Disks[i]
		for k := range d.Layers {
			l := &d.Layers[k]
			b.add(Step{Op: OpUnfold, Snapshot: l.Snapshot, Disk: d.Target, Path: l.Path, Base: d.below(k), Bytes: l.Bytes,
				Reason: "a copy of the state inside " + d.Image().Path + ", compared with it"})
		}
	}
	for i := range a.Disks {
		d := &a.Disks[i]
		b.add(Step{Op: OpSwitch, Disk: d.Target, Base: d.below(len(d.Layers) - 1), Path: d.Active(), Reason: "the guest starts from the layers"})
	}
	for i := range a.Snapshots {
		b.add(Step{Op: OpRedefine, Snapshot: a.Snapshots[i].Snapshot, Reason: ReasonExternal})
	}
}

// tell warns of what does not come along, and names what stays.
func (a *Adoption) tell(b *builder) {
	warn := func(format string, args ...any) {
		b.plan.Warnings = append(b.plan.Warnings, fmt.Sprintf(format, args...))
	}
	if b.d.UEFI || b.d.HasTPM {
		warn("the snapshots are of disks alone: UEFI variables and TPM state of their time do not come along, and stay as they are now")
	}
	for i := range a.Disks {
		d := &a.Disks[i]
		a.tellMemory(d, warn)
		if n := d.Image().Image.Bitmaps; n > 0 {
			warn("%s of %s stay behind: the next backup that goes by them has to be a full one", host.Plural(n, "persistent bitmap"), d.Image().Path)
		}
		b.plan.Kept = append(b.plan.Kept, KeptImage(b.w, b.d, d.Image()))
	}
	if n := len(a.longest()); n >= b.rule.MaxChain {
		warn("the chain has %s, and rotation takes no snapshot beyond max_chain = %d: raise it, or delete snapshots (virt-rotate delete --foreign)", host.Plural(n, "layer"), b.rule.MaxChain)
	}
}

func (a *Adoption) tellMemory(d *AdoptedDisk, warn func(string, ...any)) {
	for k := range d.Layers {
		l := &d.Layers[k]
		switch s := d.state(l.ID); {
		case s.Memory == 0:
		case l.Memory == "":
			warn("the saved memory of %s, %s, stays in %s alone", l.Snapshot, host.Bytes(s.Memory), d.Image().Path)
		default:
			warn("the saved memory of %s, %s, is kept in %s, as QEMU has saved it: libvirt does not go back to it, only to the disks", l.Snapshot, host.Bytes(s.Memory), l.Memory)
		}
	}
}

// longest is the longest chain that a guest starts from.
func (a *Adoption) longest() (chain []host.Layer) {
	for i := range a.Disks {
		if c := a.Disks[i].ChainTo(len(a.Disks[i].Layers) - 1); len(c) > len(chain) {
			chain = c
		}
	}
	return chain
}

// KeptImage tells of an image with internal snapshots that have become layers.
func KeptImage(w *observe.World, d *host.Domain, image *host.Layer) Kept {
	k := Kept{Path: image.Path, Bytes: image.Allocated}
	l := w.Forest.Find(image.Key())
	switch {
	case l == nil:
	case len(l.Children) > 0:
		k.UsedBy = l.Children[0].Path
	default:
		own := "disk " + d.Name + "/"
		if i := slices.IndexFunc(l.Keepers, func(who string) bool { return !strings.HasPrefix(who, own) }); i >= 0 {
			k.UsedBy = l.Keepers[i]
		}
	}
	return k
}

// MayUnmake tells what speaks against removing what an adoption has made that was interrupted
// before the domain was on it; nil if nothing does.
func MayUnmake(w *observe.World, a *journal.Adoption) error {
	for _, f := range a.Made {
		left, there := w.Left[f.Path]
		if !there || f.ID != (host.FileID{}) && f.ID != left.ID {
			continue
		}
		if f.ID == (host.FileID{}) && !left.Blank {
			return fmt.Errorf("%s: it holds data, and the intent does not name its inode", f.Path)
		}
		if left.InUse {
			return fmt.Errorf("%s: a process has it open", f.Path)
		}
		if who := unmakeStops(w, a, host.LayerKey(left.ID, f.Path)); who != "" {
			return fmt.Errorf("%s: it is used by %s", f.Path, who)
		}
	}
	return nil
}

// unmakeStops says what else has come to need a file that was made.
func unmakeStops(w *observe.World, a *journal.Adoption, key string) string {
	l := w.Forest.Find(key)
	if l == nil {
		return ""
	}
	for _, c := range l.Children {
		if !a.Makes(c.Path) {
			return c.Path
		}
	}
	if len(l.Keepers) > 0 {
		return l.Keepers[0]
	}
	return ""
}
