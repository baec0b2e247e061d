package rotate

import (
	"fmt"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Codes of refusals: stable names for scripts and for the manual.
const (
	CodeRemote         = "remote"             // files of another host
	CodeState          = "state"              // a state in which chains must not change
	CodeTransient      = "transient"          // no persistent configuration
	CodeManagedSave    = "managed-save"       // a saved state refers to the chain
	CodeInternal       = "internal-snapshots" // snapshots inside the images
	CodeBlockJob       = "block-job"          // somebody else's job runs
	CodeNetworkDisk    = "network-disk"
	CodeVolumeDisk     = "volume-disk"
	CodeDiskKind       = "disk-type"
	CodeShareable      = "shareable-disk"
	CodeTransDisk      = "transient-disk"
	CodeEncrypted      = "encrypted"
	CodeDataFile       = "data-file"
	CodeFormat         = "format"
	CodeCorrupt        = "corrupt"
	CodeUnreadable     = "unreadable"
	CodeMismatch       = "chain-mismatch" // XML and image headers disagree
	CodeInactive       = "configuration-differs"
	CodeNoDisk         = "no-disk"
	CodeOverlayDir     = "overlay-dir"
	CodeNameTooLong    = "name-too-long"
	CodeChainLong      = "chain-too-long"
	CodeNoSpace        = "no-space"
	CodeSize           = "size"
	CodeIOError        = "io-error"
	CodeRestart        = "restart-needed" // libvirt does not know the chain of the running guest
	CodeForeign        = "foreign-snapshot"
	CodeStopped        = "stopped-in-pivot" // the guest stopped while it was moved to the base
	CodeLeftover       = "leftover"
	CodeStale          = "stale-metadata"  // a snapshot's state is not where its metadata says
	CodeForeignOverlay = "foreign-overlay" // another program's overlay above one of ours
	CodeShared         = "shared-disk"     // another domain uses the same active image
	CodeIntent         = "intent"          // the intent of an earlier run cannot be read
	CodeMethod         = "method"
	CodeNoGuestAgent   = "no-guest-agent"
	CodeHook           = "hook"             // the policy's hook before the work failed
	CodeFault          = "fault"            // a fault of virt-rotate itself
	CodeDoubt          = "unreadable-image" // an image that could build on a layer
	CodeDestroyed      = "lost-snapshot"    // a guest has written to what its state builds on
	CodeCheckpoints    = "checkpoints"      // of a guest that is off
	CodeLocalLocks     = "local-locks"      // of a shared storage that is mounted without locks
	CodeLiveOnly       = "live-only-disk"   // the persistent configuration lacks it
	CodeComma          = "comma-in-name"    // libvirt mixes up such names while the guest is off
	CodeInUse          = "in-use"           // a process has an image of a guest that is off open
	CodeMetadata       = "metadata"         // what libvirt has on record holds what could not be kept
	CodeTwoPolicies    = "two-policies"     // several policies match the domain
)

// checkDomain refuses what must not be touched at all. It tells every reason.
func (b *builder) checkDomain() {
	d := b.d
	if b.w.Remote {
		b.refuse(CodeRemote, "", "the connection is to another host: rotation needs the files; run virt-rotate there")
	}
	if d.Problem != "" {
		b.refuse(CodeUnreadable, "", d.Problem)
	}
	if d.ManagedSave {
		b.refuse(CodeManagedSave, "", "a managed save of the guest names the present chain: start the guest or drop the save (virsh managedsave-remove)")
	}
	if d.Transient {
		b.refuse(CodeTransient, "", "the domain has no persistent configuration: its snapshots would be forgotten when it stops")
	}
	if i := slices.IndexFunc(d.Snapshots, func(s Snapshot) bool { return s.Internal }); i >= 0 {
		b.refuse(CodeInternal, "", fmt.Sprintf("snapshot %s is an internal one: it and external snapshots do not mix; delete it first", d.Snapshots[i].Name))
	}
	switch d.State {
	case Running, Paused, ShutOff:
	default:
		b.refuse(CodeState, "", fmt.Sprintf("the domain is %s: its chain is left alone in this state", d.State))
	}
	b.checkTargets()
	b.checkDisks()
	b.checkDestroyed()
}

// checkTargets refuses a domain with two disks of one target: which of them is meant by it
// could not be told.
func (b *builder) checkTargets() {
	seen := map[string]bool{}
	for i := range b.disks {
		target := b.disks[i].Target
		if seen[target] {
			b.refuse(CodeUnreadable, target, fmt.Sprintf("libvirt tells of two disks with the target %q", target))
			return
		}
		seen[target] = true
	}
}

func (b *builder) checkDisks() {
	covered := 0
	for i := range b.disks {
		disk := &b.disks[i]
		if !b.covers(disk) {
			continue
		}
		covered++
		if b.checkKind(disk) {
			b.checkWriters(disk)
			b.checkChain(disk)
			b.checkStrangeOverlays(disk)
		}
		b.checkJob(disk)
	}
	if covered > 0 {
		return
	}
	if b.tellLiveOnly(); len(b.plan.Refused) == 0 {
		b.refuse(CodeNoDisk, "", "the policy covers none of the domain's writable disks")
	}
}

// covers tells whether the policy wants the disk snapshotted.
func (b *builder) covers(disk *Disk) bool {
	return (disk.Device == "disk" || disk.Device == "lun") && !disk.ReadOnly && b.rule.Covers(disk.Target) && !b.liveOnly(disk)
}

// liveOnly tells whether the running guest has a disk that its persistent configuration
// lacks: it goes when the guest stops. The other disks are rotated without it.
func (b *builder) liveOnly(disk *Disk) bool {
	return b.d.State.Live() && !b.d.Transient && !b.w.Remote && len(disk.Inactive) == 0 && len(disk.Chain) > 0
}

// tellLiveOnly says which disks the policy covers and the persistent configuration lacks.
func (b *builder) tellLiveOnly() {
	for i := range b.disks {
		disk := &b.disks[i]
		if b.liveOnly(disk) && disk.Device == "disk" && !disk.ReadOnly && b.rule.Covers(disk.Target) {
			b.refuse(CodeLiveOnly, disk.Target, "the persistent configuration lacks the disk: the guest would start without it, so it is left out, and the others are rotated; to have it for good: virsh attach-device with --config")
		}
	}
}

// checkKind refuses disks of which no external snapshot can be taken safely.
func (b *builder) checkKind(disk *Disk) bool {
	before := len(b.plan.Refused)
	exclude := "; take the disk out with the policy's exclude_disks"
	switch disk.Kind {
	case "file", "block":
	case "network":
		b.refuse(CodeNetworkDisk, disk.Target, "a network disk has no local overlay"+exclude)
	case "volume":
		b.refuse(CodeVolumeDisk, disk.Target, "type='volume' hides the file: write the disk as type='file' or type='block'"+exclude)
	default:
		b.refuse(CodeDiskKind, disk.Target, fmt.Sprintf("disks of type %q cannot be rotated%s", disk.Kind, exclude))
	}
	if disk.Device == "lun" {
		b.refuse(CodeDiskKind, disk.Target, "a device='lun' disk passes SCSI commands through: it cannot have an overlay"+exclude)
	}
	if disk.Shareable {
		b.refuse(CodeShareable, disk.Target, "a shareable disk is written by others too: an overlay would hide their writes"+exclude)
	}
	if disk.Transient {
		b.refuse(CodeTransDisk, disk.Target, "a <transient/> disk is thrown away when the guest stops"+exclude)
	}
	if disk.Encrypted {
		b.refuse(CodeEncrypted, disk.Target, "an overlay on an encrypted disk would hold guest data in clear"+exclude)
	}
	return len(b.plan.Refused) == before
}

// checkChain compares what libvirt says of the chain with the image headers.
func (b *builder) checkChain(disk *Disk) {
	if b.w.Remote {
		return
	}
	if code, path, detail := ChainProblem(disk); code != "" {
		b.refuse(code, path, detail)
		return
	}
	if detail := inactiveProblem(disk); detail != "" && !b.d.Transient && !b.reconfigured(disk) {
		b.refuse(CodeInactive, disk.Active().Path, detail)
	}
}

// reconfigured tells whether the persistent configuration of a running guest has
// the chain as it will be after a merge of ours: that was cut off on a guest that
// was off, which was started on the old chain in that moment.
func (b *builder) reconfigured(disk *Disk) bool {
	in := b.w.Intents[b.d.UUID]
	if in == nil || !b.d.State.Live() {
		return false
	}
	after := *disk
	after.Chain = slices.Clone(disk.Chain)
	for i := range in.Merges {
		if in.Merges[i].Disk != disk.Target {
			continue
		}
		in.Merges[i].leave(&after)
	}
	return inactiveProblem(&after) == ""
}

// leave takes the layers that the merge makes superfluous out of the disk's chain.
func (m *intentMerge) leave(disk *Disk) {
	if m.Graft != nil {
		if after := m.grafted(disk); after != nil && !m.Graft.ended(disk) {
			disk.Chain = after
		}
		return
	}
	if first, top := disk.index(m.Base), disk.index(m.Pull); m.Pull != "" && first >= 0 && top > first {
		disk.Chain = slices.Delete(disk.Chain, first, top)
		return
	}
	for _, f := range m.Gone {
		disk.Chain = slices.DeleteFunc(disk.Chain, func(l Layer) bool { return l.Path == f.Path })
	}
}

// startedOnOld tells whether that has happened to the disk.
func (b *builder) startedOnOld(disk Disk) bool {
	return inactiveProblem(&disk) != "" && b.reconfigured(&disk)
}

// ChainProblem returns the first contradiction between a disk's chain and its
// image headers: code, path and a sentence, or "" when there is none.
func ChainProblem(disk *Disk) (code, path, detail string) {
	if disk.Problem != "" {
		return CodeUnreadable, disk.Target, disk.Problem
	}
	if len(disk.Chain) == 0 {
		return CodeUnreadable, disk.Target, "libvirt names no image for the disk"
	}
	for i := range disk.Chain {
		l := &disk.Chain[i]
		if l.Problem != "" {
			return CodeUnreadable, l.Path, l.Problem
		}
		if code, detail := imageProblem(l); code != "" {
			return code, l.Path, detail
		}
		if detail := linkProblem(disk.Chain, i); detail != "" {
			return CodeMismatch, l.Path, detail
		}
	}
	return "", "", ""
}

// notRead is said of a layer that nobody has looked at.
const notRead = "the image's header was not read"

// imageProblem refuses images that a merge could damage.
func imageProblem(l *Layer) (code, detail string) {
	switch {
	case l.Kind != "file" && l.Kind != "block":
		return CodeDiskKind, fmt.Sprintf("the layer is of type %q, not a file or a block device", l.Kind)
	case l.Format != "raw" && l.Format != "qcow2":
		return CodeFormat, fmt.Sprintf("format %q: only raw and qcow2 are rotated", l.Format)
	case l.Image == nil:
		return CodeUnreadable, notRead
	case l.Image.Corrupt:
		return CodeCorrupt, "the image is marked as corrupt: repair it first (qemu-img check -r all)"
	case l.Image.Encrypted:
		return CodeEncrypted, "the image is encrypted: merging would need its key"
	case l.Image.DataFile:
		return CodeDataFile, "the image keeps its data in another file"
	case l.Image.Snapshots > 0:
		return CodeInternal, fmt.Sprintf("the image holds %s, which do not mix with external ones: qemu-img snapshot -l lists them, -d deletes one while the guest is off", plural(l.Image.Snapshots, "internal snapshot"))
	}
	return "", ""
}

// linkProblem compares the backing name in the header of layer i with layer i-1.
func linkProblem(layers []Layer, i int) string {
	l := &layers[i]
	if i == 0 {
		if l.Image.Backing != "" {
			return fmt.Sprintf("libvirt takes it for the base, but its header names the backing file %q", l.Image.Backing)
		}
		return ""
	}
	below := &layers[i-1]
	if l.Image.Backing == "" {
		return fmt.Sprintf("libvirt has it on %s, but its header names no backing file (virt-clone leaves the source's <backingStore> in a clone: if this is one, take that out with virsh edit)", below.Path)
	}
	if backingPath(l) != below.Path && (l.BackingID != below.ID || below.ID == vfs.ID{}) {
		return fmt.Sprintf("libvirt has it on %s, but its header names the backing file %q", below.Path, l.Image.Backing)
	}
	if f := l.Image.BackingFormat; f != "" && f != below.Format {
		return fmt.Sprintf("its header takes %s for %s, libvirt for %s", below.Path, f, below.Format)
	}
	return ""
}

// inactiveProblem compares the persistent configuration with what runs.
func inactiveProblem(disk *Disk) string {
	n := len(disk.Inactive)
	if n == 0 {
		return "the persistent configuration lacks the disk: the guest would start without it"
	}
	for i := range min(n, len(disk.Chain)) {
		have, want := disk.Inactive[n-1-i], disk.Chain[len(disk.Chain)-1-i].Path
		if have != want {
			return fmt.Sprintf("the guest runs on %s, but its persistent configuration names %s", want, have)
		}
	}
	if n > len(disk.Chain) {
		return "the persistent configuration has a longer chain than the running guest"
	}
	return ""
}

// checkJob refuses a disk on which somebody else's job runs.
func (b *builder) checkJob(disk *Disk) {
	if disk.Job == nil || b.adoptable(disk) {
		return
	}
	b.refuse(CodeBlockJob, disk.Target, fmt.Sprintf("a block job of type %q runs on it that is not ours: let it end, or end it (virsh blockjob)", disk.Job.Type))
}

// adoptable tells whether the job on disk is a merge that an intent of ours names.
func (b *builder) adoptable(disk *Disk) bool {
	in := b.w.Intents[b.d.UUID]
	if in == nil || !slices.Contains([]string{"commit", "active-commit", "pull", "copy"}, disk.Job.Type) {
		return false
	}
	return slices.ContainsFunc(in.Merges, func(m intentMerge) bool {
		if m.Graft != nil || disk.Job.Type == "copy" {
			return m.Graft != nil && m.Disk == disk.Target && disk.Job.Type == "copy" && (disk.Job.Target == "" || disk.Job.Target == m.Graft.active().Path)
		}
		return m.Disk == disk.Target && (m.Pull != "") == (disk.Job.Type == "pull")
	})
}

func (b *builder) refuse(code, path, detail string) { b.plan.Refuse(code, path, detail) }
