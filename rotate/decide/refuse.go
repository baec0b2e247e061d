package decide

import (
	"fmt"
	"slices"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// checkDomain refuses what must not be touched at all. It tells every reason.
func (b *builder) checkDomain() {
	d := b.d
	if b.w.Remote {
		b.refuse(host.CodeRemote, "", "the connection is to another host: rotation needs the files; run virt-rotate there")
	}
	if d.Problem != "" {
		b.refuse(host.CodeUnreadable, "", d.Problem)
	}
	if d.ManagedSave {
		b.refuse(host.CodeManagedSave, "", "a managed save of the guest names the present chain: start the guest or drop the save (virsh managedsave-remove)")
	}
	if d.Transient {
		b.refuse(host.CodeTransient, "", "the domain has no persistent configuration: its snapshots would be forgotten when it stops")
	}
	if i := slices.IndexFunc(d.Snapshots, func(s host.Snapshot) bool { return s.Internal }); i >= 0 {
		b.refuse(host.CodeInternal, "", fmt.Sprintf("snapshot %s is an internal one: it and external snapshots do not mix; delete it first", d.Snapshots[i].Name))
	}
	switch d.State {
	case host.Running, host.Paused, host.ShutOff:
	default:
		b.refuse(host.CodeState, "", fmt.Sprintf("the domain is %s: its chain is left alone in this state", d.State))
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
			b.refuse(host.CodeUnreadable, target, fmt.Sprintf("libvirt tells of two disks with the target %q", target))
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
		b.refuse(host.CodeNoDisk, "", "the policy covers none of the domain's writable disks")
	}
}

// covers tells whether the policy wants the disk snapshotted.
func (b *builder) covers(disk *host.Disk) bool {
	return (disk.Device == "disk" || disk.Device == "lun") && !disk.ReadOnly && b.rule.Covers(disk.Target) && !b.liveOnly(disk)
}

// liveOnly tells whether the running guest has a disk that its persistent configuration
// lacks: it goes when the guest stops. The other disks are rotated without it.
func (b *builder) liveOnly(disk *host.Disk) bool {
	return b.d.State.Live() && !b.d.Transient && !b.w.Remote && len(disk.Inactive) == 0 && len(disk.Chain) > 0
}

// tellLiveOnly says which disks the policy covers and the persistent configuration lacks.
func (b *builder) tellLiveOnly() {
	for i := range b.disks {
		disk := &b.disks[i]
		if b.liveOnly(disk) && disk.Device == "disk" && !disk.ReadOnly && b.rule.Covers(disk.Target) {
			b.refuse(host.CodeLiveOnly, disk.Target, "the persistent configuration lacks the disk: the guest would start without it, so it is left out, and the others are rotated; to have it for good: virsh attach-device with --config")
		}
	}
}

// checkKind refuses disks of which no external snapshot can be taken safely.
func (b *builder) checkKind(disk *host.Disk) bool {
	before := len(b.plan.Refused)
	exclude := "; take the disk out with the policy's exclude_disks"
	if code, why := disk.Obstacle(); code != "" {
		b.refuse(code, disk.Target, why+exclude)
	}
	if disk.Device == "lun" {
		b.refuse(host.CodeDiskKind, disk.Target, "a device='lun' disk passes SCSI commands through: it cannot have an overlay"+exclude)
	}
	if disk.Shareable {
		b.refuse(host.CodeShareable, disk.Target, "a shareable disk is written by others too: an overlay would hide their writes"+exclude)
	}
	if disk.Transient {
		b.refuse(host.CodeTransDisk, disk.Target, "a <transient/> disk is thrown away when the guest stops"+exclude)
	}
	if disk.Encrypted {
		b.refuse(host.CodeEncrypted, disk.Target, "an overlay on an encrypted disk would hold guest data in clear"+exclude)
	}
	return len(b.plan.Refused) == before
}

// checkChain compares what libvirt says of the chain with the image headers.
func (b *builder) checkChain(disk *host.Disk) {
	if b.w.Remote {
		return
	}
	if code, path, detail := host.ChainProblem(disk); code != "" {
		b.refuse(code, path, detail)
		return
	}
	if detail := host.InactiveProblem(disk); detail != "" && !b.d.Transient && !b.reconfigured(disk) {
		b.refuse(host.CodeInactive, disk.Active().Path, detail)
	}
}

// reconfigured tells whether the persistent configuration of a running guest has
// the chain as it will be after a merge of ours: that was cut off on a guest that
// was off, which was started on the old chain in that moment.
func (b *builder) reconfigured(disk *host.Disk) bool {
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
		in.Merges[i].Leave(&after)
	}
	return host.InactiveProblem(&after) == ""
}

// startedOnOld tells whether that has happened to the disk.
func (b *builder) startedOnOld(disk host.Disk) bool {
	return host.InactiveProblem(&disk) != "" && b.reconfigured(&disk)
}

// checkJob refuses a disk on which somebody else's job runs.
func (b *builder) checkJob(disk *host.Disk) {
	if disk.Job == nil || b.adoptable(disk) {
		return
	}
	b.refuse(host.CodeBlockJob, disk.Target, fmt.Sprintf("a block job of type %q runs on it that is not ours: let it end, or end it (virsh blockjob)", disk.Job.Type))
}

// adoptable tells whether the job on disk is a merge that an intent of ours names.
func (b *builder) adoptable(disk *host.Disk) bool {
	in := b.w.Intents[b.d.UUID]
	if in == nil || !slices.Contains([]string{"commit", "active-commit", "pull", "copy"}, disk.Job.Type) {
		return false
	}
	return slices.ContainsFunc(in.Merges, func(m journal.Merge) bool {
		return m.Disk == disk.Target && wayOf(&m).adopts(disk.Job, &m)
	})
}

func (b *builder) refuse(code, path, detail string) { b.plan.Refuse(code, path, detail) }
