package decide

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// snapshotBeforeMerges tells whether the chains have room for one more layer now.
func (b *builder) snapshotBeforeMerges() bool {
	disk, _ := b.longChain()
	return disk == nil && !b.mergesFirst()
}

// waitsForMerge tells whether nothing else is to be done before a merge, and notes that.
func (b *builder) waitsForMerge() bool {
	if !b.mergesFirst() {
		return false
	}
	b.plan.putOff("a merge that was cut off has to be done again before anything else")
	return true
}

// mergesFirst tells whether a merge that was cut off has to be done again before
// anything else: its intent, which another one would replace, is all that explains the
// chain.
func (b *builder) mergesFirst() bool {
	undone := func(im *journal.Merge) bool {
		disk := b.disk(im.Disk)
		return disk != nil && (im.Top(disk) >= 0 || im.Pull != "" && disk.Index(im.Base) >= 0)
	}
	return slices.ContainsFunc(b.lost, undone) || slices.ContainsFunc(b.disks, b.startedOnOld)
}

// longChain returns a disk whose chain would be too long after a snapshot.
func (b *builder) longChain() (*host.Disk, int) {
	for i := range b.disks {
		if n := len(b.disks[i].Chain) + 1; b.covers(&b.disks[i]) && n > b.rule.MaxChain {
			return &b.disks[i], n
		}
	}
	return nil, 0
}

// snapshot plans the snapshot that is due, or notes why there will be none.
func (b *builder) snapshot() {
	if b.waitsForMerge() {
		return
	}
	trial := b.clone()
	spec, refused := trial.planSnapshot(true)
	if refused != nil {
		b.plan.Refused = append(b.plan.Refused, *refused)
		return
	}
	end := trial.begin(Group{Snapshot: spec})
	trial.takeSteps(spec)
	end()
	*b = *trial
}

// planSnapshot names the snapshot and its overlays and sees that there is room
// for them; the length of the chains is looked at only if measured is set.
func (b *builder) planSnapshot(measured bool) (*host.SnapshotSpec, *Refusal) {
	if b.d.IOError {
		return nil, &Refusal{host.CodeIOError, "", "the guest is paused because of an I/O error, as when its storage is full: mend that, then virsh resume " + host.Quoted(b.d.Name)}
	}
	if b.frozen() {
		return nil, &Refusal{host.CodeCheckpoints, "", b.checkpoints()}
	}
	if disk, n := b.longChain(); measured && disk != nil {
		return nil, &Refusal{host.CodeChainLong, disk.Target, fmt.Sprintf(
			"a snapshot would make its chain %s long: max_chain is %d", host.Plural(n, "layer"), b.rule.MaxChain)}
	}
	if r := b.sharedDisk(); r != nil {
		return nil, r
	}
	ask := b.o.Quiesce(b.rule)
	quiesce := b.d.State.Live() && !b.o.taking().Memory && (ask == policy.QuiesceYes || ask == policy.QuiesceAuto && b.d.Agent && b.d.State == host.Running)
	if quiesce && !b.d.Agent {
		return nil, &Refusal{host.CodeNoGuestAgent, "", "quiesce = \"yes\", but no guest agent is connected"}
	}
	spec := &host.SnapshotSpec{Quiesce: quiesce, Overlays: map[string]string{}}
	if refused := b.placeOverlays(spec); refused != nil {
		return nil, refused
	}
	b.placeFirmware(spec)
	if refused := b.placeMemory(spec); refused != nil {
		return nil, refused
	}
	spec.Description = b.mark(spec).String()
	return spec, b.reserveOverlays(spec)
}

// sharedDisk refuses a domain one of whose disks is shared.
func (b *builder) sharedDisk() *Refusal {
	for i := range b.disks {
		if disk := &b.disks[i]; b.covers(disk) {
			if r := b.sharedWith(disk); r != nil {
				return r
			}
		}
	}
	return nil
}

// sharedWith refuses a disk whose active image another domain has as its disk
// too: started, that one would run on old data and overwrite the snapshot.
func (b *builder) sharedWith(disk *host.Disk) *Refusal {
	l := b.forest.Find(disk.Active().Key())
	if l == nil {
		return nil
	}
	for _, who := range l.Keepers {
		if who != observe.DiskKeeper(b.d.Name, disk.Target) {
			return &Refusal{host.CodeShared, disk.Active().Path, "the image is also used by " + who + ", which a snapshot would leave on old data"}
		}
	}
	return nil
}

// placeOverlays chooses a snapshot name under which every overlay is free.
func (b *builder) placeOverlays(spec *host.SnapshotSpec) *Refusal {
	stems := b.stems()
	for i := range b.disks {
		disk := &b.disks[i]
		switch {
		case !b.covers(disk):
			spec.Exclude = append(spec.Exclude, disk.Target)
		case b.rule.OverlayDir == "" && disk.Active().Kind.IsDevice():
			return &Refusal{host.CodeOverlayDir, disk.Active().Path, "an overlay cannot lie beside a block device: set overlay_dir in the policy"}
		}
	}
	begin := b.rule.Name
	if name := b.o.taking().Name; name != "" {
		if begin = name; host.Listed(b.snaps, name) {
			return &Refusal{host.CodeNameTaken, "", "there is a snapshot " + name + " already: give another name"}
		}
	}
	file := snapshotName(begin, b.now, func(name string) bool { return b.nameFree(stems, name) })
	if spec.Name = b.o.taking().Name; spec.Name == "" {
		spec.Name = file
	}
	for target, stem := range stems {
		path := overlayPath(b.disk(target), stem, b.rule.OverlayDir, file)
		if !b.d.State.Live() && strings.Contains(path, ",") {
			return &Refusal{host.CodeComma, path, "the path has a comma: for a guest that is off, libvirt would make another file than it names in the domain"}
		}
		if len(filepath.Base(path)) > maxFileName {
			return &Refusal{host.CodeNameTooLong, path, fmt.Sprintf("the overlay's file name would be longer than %d bytes", maxFileName)}
		}
		spec.Overlays[target] = path
	}
	return nil
}

// stems returns the stem of each covered disk's overlays; disks whose stems
// would collide get their whole file name and their target.
func (b *builder) stems() map[string]string {
	count := map[string]int{}
	stems := map[string]string{}
	for i := range b.disks {
		if b.covers(&b.disks[i]) {
			s := host.Stem(&b.disks[i])
			stems[b.disks[i].Target] = s
			count[s]++
		}
	}
	for target, s := range stems {
		if count[s] > 1 {
			stems[target] = s + "." + target
		}
	}
	return stems
}

func (b *builder) nameFree(stems map[string]string, name string) bool {
	if host.Listed(b.snaps, name) {
		return false
	}
	var overlays []string
	for target, stem := range stems {
		path := overlayPath(b.disk(target), stem, b.rule.OverlayDir, name)
		if b.w.Taken[path] || b.d.Uses(path) {
			return false
		}
		overlays = append(overlays, path)
	}
	return b.o.Reserved.claim(b.d.Name, overlays)
}

func (b *builder) disk(target string) *host.Disk {
	return diskAt(b.disks, target)
}

// forecast is how much an overlay may grow until the next one: as much as the
// present overlay did. Of a base nothing is known.
func (b *builder) forecast(disk *host.Disk) int64 {
	if len(disk.Chain) > 1 && b.isOurs(disk.Active()) {
		return max(emptyOverlay, disk.Active().Allocated)
	}
	return emptyOverlay
}

// reserveOverlays sees that the overlays have room.
func (b *builder) reserveOverlays(spec *host.SnapshotSpec) *Refusal {
	for i := range b.disks {
		path, ok := spec.Overlays[b.disks[i].Target]
		if !ok {
			continue
		}
		if r := b.reserveOverlay(path, b.forecast(&b.disks[i])); r != nil {
			return r
		}
	}
	return nil
}

// reserveOverlay sees that an overlay of so many bytes has room.
func (b *builder) reserveOverlay(path string, need int64) *Refusal {
	return b.reserveFor(path, need, "an overlay there")
}

// reserveFor sees that a new file beside the overlays has room for so many bytes.
func (b *builder) reserveFor(path string, need int64, what string) *Refusal {
	fs, known := b.w.Dirs[filepath.Dir(path)]
	if !known {
		return &Refusal{host.CodeOverlayDir, filepath.Dir(path), "the directory for the overlay cannot be used: is it there?"}
	}
	return b.reserve(fs, path, need, what)
}

// takeSteps adds the steps of the snapshot and puts it into the builder's world.
func (b *builder) takeSteps(spec *host.SnapshotSpec) {
	snap := host.Snapshot{Name: spec.Name, Time: b.now, Description: spec.Description, Current: true}
	if n := len(b.snaps); n > 0 {
		snap.Parent = b.snaps[n-1].Name
	}
	for i := range b.disks {
		disk := &b.disks[i]
		path, ok := spec.Overlays[disk.Target]
		sd := host.SnapshotDisk{Target: disk.Target, Overlay: path, State: host.Paths(disk.Chain)}
		snap.Disks = append(snap.Disks, sd)
		if !ok {
			continue
		}
		b.add(Step{Op: OpSnapshot, Snapshot: spec.Name, Disk: disk.Target, Base: disk.Active().Path, Path: path,
			Bytes: b.forecast(disk), Reason: b.dueReason(spec)})
		b.putOn(disk, path)
	}
	if spec.Firmware != "" {
		b.add(Step{Op: OpFirmware, Snapshot: spec.Name, Path: spec.Firmware, Reason: "UEFI variables and TPM state are kept with it"})
	}
	if m := spec.Memory; m != nil {
		snap.Memory = m.Path
		b.add(Step{Op: OpMemory, Snapshot: spec.Name, Path: m.Path, Bytes: m.Size, Reason: memoryReason(m)})
	}
	b.snaps = append(b.snaps, snap)
	for _, sd := range snap.Disks {
		if sd.Overlay != "" {
			b.forest.Find(b.below(sd.Target).Key()).Keep(observe.SnapshotKeeper(b.d.Name, spec.Name))
		}
	}
}

func (b *builder) dueReason(spec *host.SnapshotSpec) string {
	if b.o.ByHand != nil {
		return "asked for"
	}
	reasons := []string{"due every " + b.rule.Every.String()}
	if newest := newestOurs(b.d.Snapshots); newest == nil {
		reasons = []string{"the domain has no snapshot of ours"}
	} else if b.o.IgnoreEvery && b.plan.Due.After(b.now) {
		reasons = []string{"asked for now"}
	}
	if spec.Quiesce {
		reasons = append(reasons, "quiesced by the guest agent")
	}
	return strings.Join(reasons, ", ")
}

// putOn puts a new overlay on the disk in the builder's world.
func (b *builder) putOn(disk *host.Disk, path string) {
	below := b.forest.Find(disk.Active().Key())
	fs := b.w.Dirs[filepath.Dir(path)]
	overlay := host.Layer{Path: path, Format: "qcow2", Kind: host.KindFile, FS: fs, Size: disk.Active().Size, Image: newImage(disk.Active())}
	l := b.forest.Add(overlay.Key(), path)
	_ = b.forest.Link(l, below) // a new layer has no parent yet
	who := observe.DiskKeeper(b.d.Name, disk.Target)
	below.Release(who)
	l.Keep(who)
	below.Active, l.Active = false, true
	disk.Chain = append(disk.Chain, overlay)
}

// below returns the layer under the active one.
func (b *builder) below(target string) *host.Layer {
	chain := b.disk(target).Chain
	return &chain[len(chain)-2]
}
