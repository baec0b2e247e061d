package decide

import (
	"fmt"
	"slices"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// checkDomain refuses what must not be touched at all. It tells every reason.
func (b *builder) checkDomain() {
	b.checkGuest()
	b.checkOwner()
	b.checkInternal()
	b.checkTargets()
	b.checkDisks()
	b.checkDestroyed()
}

// checkInternal refuses a domain with internal snapshots, or one whose have become external
// ones only in part.
func (b *builder) checkInternal() {
	d := b.d
	if in := b.w.Intents[d.UUID]; in != nil && in.Adoption != nil {
		b.refuse(host.CodeAdoption, "", "the adoption of its internal snapshots was interrupted: "+AdoptCommand(d.Name)+" finishes it")
		return
	}
	i := slices.IndexFunc(d.Snapshots, func(s host.Snapshot) bool { return s.Internal })
	if i < 0 {
		return
	}
	what := "delete it first"
	if adoptable(d) {
		what = AdoptCommand(d.Name) + " makes external ones of all"
	}
	b.refuse(host.CodeInternal, "", fmt.Sprintf("snapshot %s is an internal one: it and external snapshots do not mix; %s", d.Snapshots[i].Name, what))
}

// adoptable tells whether all snapshots of the domain are internal ones.
func adoptable(d *host.Domain) bool {
	return !slices.ContainsFunc(d.Snapshots, func(s host.Snapshot) bool { return !s.Internal })
}

// checkGuest refuses a domain for what it is, and not for its disks.
func (b *builder) checkGuest() {
	d := b.d
	if b.w.Remote {
		b.refuse(host.CodeRemote, "", "the connection is to another host: rotation needs the files; run virt-rotate there")
	}
	if d.Problem != "" && d.Busy == "" { // in the middle of a snapshot libvirt's list of them cannot be read
		b.refuse(host.CodeUnreadable, "", d.Problem)
	}
	if d.ManagedSave {
		b.refuse(host.CodeManagedSave, "", "a managed save of the guest names the present chain: start the guest or drop the save (virsh managedsave-remove)")
	}
	if m := b.w.Moves[d.UUID]; m != nil {
		b.refuse(host.CodeMove, "", openMove(m))
	}
	if d.Transient {
		b.refuse(host.CodeTransient, "", "the domain has no persistent configuration: its snapshots would be forgotten when it stops")
	}
	switch {
	case d.Busy != "":
		b.refuse(host.CodeState, "", fmt.Sprintf("libvirt is at work on the guest (%s), and nothing is changed meanwhile", d.Busy))
	case d.State == host.Running, d.State == host.Paused, d.State == host.ShutOff:
	default:
		b.refuse(host.CodeState, "", fmt.Sprintf("the domain is %s: its chain is left alone in this state", d.State))
	}
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
	if b.tellSkipped(); covered == 0 {
		b.refuseUncovered()
	}
}

// checkKind refuses disks of which no external snapshot can be taken safely.
func (b *builder) checkKind(disk *host.Disk) bool {
	if l := disk.MissingVolume(); l != nil { // nobody can tell what it is: no reason to leave it out unasked
		b.refuse(host.CodeVolumeDisk, disk.Target, l.Problem+"; or take the disk out with the policy's exclude_disks")
		return false
	}
	why := b.unsuitable(disk)
	for _, r := range why {
		b.refuse(r.Code, r.Path, r.Detail+"; "+excludeRemedy(disk.Target))
	}
	return len(why) == 0
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
