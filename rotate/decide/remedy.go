package decide

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// refusalsOf lists what a run would refuse of the domain now, and which disks it would leave
// out, by its rule, or by one that drops nothing where no policy covers it.
func refusalsOf(w *observe.World, d *host.Domain, rule *policy.Rule, now time.Time) (refused, skipped []Refusal) {
	if rule != nil {
		p := Decide(w, d, rule, now, Options{})
		return p.Refused, p.Skipped
	}
	b := doctorsBuilder(w, d)
	b.missedPivots()
	b.checkDomain()
	b.checkLost()
	if len(b.plan.Refused) == 0 {
		b.finishEarlier()
	}
	return b.plan.Refused, nil
}

// FindingOf turns a refusal into a finding, with what to do about it.
func FindingOf(d *host.Domain, r Refusal) Finding {
	return Finding{Code: findingCode(r.Code), Domain: d.Name, Path: r.Path, Detail: r.Detail, Remedy: remedyOf(d, r)}
}

// findingCode is the name that a refusal has as a finding.
func findingCode(code string) string {
	switch code {
	case host.CodeMismatch:
		return FindMismatch
	case host.CodeBlockJob:
		return FindJob
	}
	return code
}

// remedyOf says what an administrator does about a refusal. No remedy costs a state that a
// snapshot keeps, unless it names that snapshot.
func remedyOf(d *host.Domain, r Refusal) string {
	switch r.Code {
	case host.CodeInternal:
		return internalRemedy(d, r)
	case host.CodeForeignOverlay:
		return foreignOverlayRemedy(d, r)
	case host.CodeDestroyed:
		return destroyedRemedy(r)
	case host.CodeVolumeDisk:
		return volumeRemedy(d, r)
	}
	name := host.Quoted(d.Name)
	for _, remedies := range []map[string]string{domainRemedies(name), storageRemedies(name), diskRemedies(name, r.Path, targetWith(d, r.Path))} {
		if text := remedies[r.Code]; text != "" {
			return text
		}
	}
	return "see docs/recovery.md"
}

// domainRemedies are about a domain as a whole, by code.
func domainRemedies(name string) map[string]string {
	return map[string]string{
		host.CodeRemote:       "run virt-rotate on that host",
		host.CodeState:        "wait until that is over: virsh domstate " + name,
		host.CodeTransient:    "make it persistent: virsh dumpxml " + name + " > domain.xml; virsh define domain.xml",
		host.CodeManagedSave:  "virsh start " + name + " goes on from the saved state; if that is not needed: virsh managedsave-remove " + name,
		host.CodeInactive:     "make the persistent configuration name the running chain (virsh edit), before the guest stops",
		host.CodeNoDisk:       "see disks, exclude_disks and on_unsuitable in the policy, or take the domain out of it",
		host.CodeIOError:      "free space where its images are, then: virsh resume " + name,
		host.CodeRestart:      "virt-rotate run " + name + " sees to it that the guest starts from the right image; then shut it down and start it",
		host.CodeForeign:      "delete it with the program that took it, or, if nobody needs it: virt-rotate delete --foreign " + name + " with its name",
		host.CodePinned:       "if it is to go all the same: virt-rotate unpin " + name + " with its name",
		host.CodeMemory:       "take the snapshot without --memory; or restore it with --without-memory: the guest boots from its disks then",
		host.CodeNameTaken:    "give another name",
		host.CodeStopped:      "docs/recovery.md says what to look at",
		host.CodeLeftover:     "docs/recovery.md says what to look at",
		host.CodeStale:        "virt-rotate doctor " + name + " tells which of the two files to look at",
		host.CodeAdoption:     "virt-rotate adopt --internal " + name,
		host.CodeIntent:       "virt-rotate run " + name + "; if its file cannot be read, docs/recovery.md",
		host.CodeMove:         "let virt-rotate run where the guest is; docs/recovery.md tells more",
		host.CodeDestination:  "see to that on the other host",
		host.CodeNoGuestAgent: "see to the guest agent, or say quiesce = \"auto\"",
		host.CodeElsewhere:    "undefine it where it does not belong; if its definition here is the one that counts: virt-rotate adopt " + name,
		host.CodeHook:         "see why the hook failed",
		host.CodeFault:        "report it, with the output of virsh dumpxml " + name,
		host.CodeOwnPolicy:    "mend what the domain's metadata says of its policy: docs/policy.md, Policies of the guests; virsh metadata shows it",
		host.CodeTwoPolicies:  "take the domain out of all policies but one with exclude",
		host.CodeMetadata:     "what libvirt has on record there holds more than this version knows; a newer one may",
		host.CodeCheckpoints:  "start the guest; or, if the backup program is not to go on from it: virsh checkpoint-list " + name + " and virsh checkpoint-delete while it runs",
		host.CodeInUse:        "let the process end; a domain that runs on another host must not be defined here: undefine it once that host has its definition and the metadata of its snapshots, for both go from here with it",
	}
}

// storageRemedies are about what its images lie on, and where they stand, by code.
func storageRemedies(name string) map[string]string {
	return map[string]string{
		host.CodeUnreadable:  "see that it is there and can be read (is its storage mounted?); never let a guest start without a layer",
		host.CodeMismatch:    "do not start, merge or delete anything before you know which of the two is right: docs/recovery.md",
		host.CodeOverlayDir:  "set overlay_dir in the policy to a directory that is there",
		host.CodeNameTooLong: "set overlay_dir in the policy to a directory that is there",
		host.CodeComma:       "start the guest: a snapshot of a running one is sound; or rename the image while the guest is off",
		host.CodeChainLong:   "virt-rotate tree " + name + " shows who keeps the layers; release what is not needed, or raise max_chain",
		host.CodeNoSpace:     "free space there, or lower min_free",
		host.CodeSize:        "free space there, or lower min_free",
		host.CodeShared:      "give each domain an image of its own, or undefine the one that does not belong",
		host.CodeNotShared:   "put it on storage that both hosts have by the same path; if it is there already, name its directory in [storage] shared",
		host.CodeMethod:      "use method = \"auto\", or put the images on XFS or btrfs",
		host.CodeHosts:       "let virt-rotate run on the host that is named; if that is gone for good: virt-rotate fleet forget HOST",
		host.CodeLocalLocks:  "mount the storage without nolock and local_lock (NFS 4 has locks of its own)",
		host.CodeDoubt:       "see to the image that is named; one that is surely no user of the layer may be named in [storage] ignore",
	}
}

// diskRemedies are about a disk or an image, by code.
func diskRemedies(name, path, target string) map[string]string {
	exclude := excludeRemedy(target)
	return map[string]string{
		host.CodeDataFile:    exclude + "; or convert the image to qcow2 without one while the guest is off",
		host.CodeFormat:      exclude + "; or convert the image to qcow2 while the guest is off",
		host.CodeBlockJob:    "let it end; if nobody waits for it: virsh blockjob " + name + " " + host.Quoted(path) + " --abort",
		host.CodeNetworkDisk: exclude,
		host.CodeDiskKind:    exclude,
		host.CodeShareable:   exclude,
		host.CodeTransDisk:   exclude,
		host.CodeEncrypted:   exclude,
		host.CodeCorrupt:     "shut the guest down and look at it: virt-rotate image check " + host.Quoted(path),
		host.CodeLiveOnly:    "to have the disk for good: virsh attach-device " + name + " DISK.xml --config; to be rid of it: virsh detach-disk " + name + " " + host.Quoted(path) + " --live",
	}
}

// internalRemedy keeps the states, where all snapshots are internal ones.
func internalRemedy(d *host.Domain, r Refusal) string {
	name, keep := host.Quoted(d.Name), "; docs/image.md (Internal snapshots as layers) tells how to keep its state in a layer"
	if adoptable(d) && (r.Path == "" || slices.ContainsFunc(d.Disks, func(disk host.Disk) bool { return disk.Index(r.Path) == len(disk.Chain)-1 })) {
		return "shut the guest down, and let them be external ones: " + AdoptCommand(d.Name)
	}
	if i := slices.IndexFunc(d.Snapshots, func(s host.Snapshot) bool { return s.Internal }); i >= 0 && r.Path == "" {
		return fmt.Sprintf("if it is not needed: virsh snapshot-delete %s %s", name, host.Quoted(d.Snapshots[i].Name)) + keep
	}
	return "libvirt does not list it: qemu-img snapshot -l " + host.Quoted(r.Path) + " does; while the guest is off, qemu-img snapshot -d NAME " + host.Quoted(r.Path) + " deletes one that is not needed" + keep
}

// foreignOverlayRemedy tells how to end what another program has begun: a merge of its
// overlay alone keeps all below, unless that is a snapshot's state; then the overlay is
// filled instead, and stands by itself.
func foreignOverlayRemedy(d *host.Domain, r Refusal) string {
	const wait = "let that program finish; if it has died, "
	for i := range d.Disks {
		disk := &d.Disks[i]
		k := disk.Index(r.Path)
		if k < 1 {
			continue
		}
		name, below := host.Quoted(d.Name), disk.Chain[k-1].Path
		switch {
		case d.IsState(below) && !d.State.Live():
			return wait + "start the guest, and let its disk stand by itself (a merge would cost the snapshot whose state is below): virsh blockpull " + name + " " + disk.Target + " --wait"
		case d.IsState(below):
			return wait + "let the disk stand by itself (a merge would cost the snapshot whose state is below): virsh blockpull " + name + " " + disk.Target + " --wait"
		case !d.State.Live():
			return wait + "start the guest, and see what virt-rotate doctor " + name + " says then"
		case k == len(disk.Chain)-1:
			return fmt.Sprintf("%smerge its overlay alone: virsh blockcommit %s %s --active --shallow --pivot --wait", wait, name, disk.Target)
		default:
			return fmt.Sprintf("%smerge its overlay alone: virsh blockcommit %s %s --base %s --top %s --wait", wait, name, disk.Target, host.Quoted(below), host.Quoted(r.Path))
		}
	}
	return "let that program finish"
}

// volumeRemedy tells how libvirt comes to know the file of a volume.
func volumeRemedy(d *host.Domain, r Refusal) string {
	leave := fmt.Sprintf("leave the disk out: exclude_disks = [%q] in the policy", r.Path)
	disk := host.DiskOf(d, r.Path)
	if disk == nil || disk.MissingVolume() == nil {
		return leave
	}
	l := disk.MissingVolume()
	pool := host.Quoted(l.Volume.Pool)
	switch l.Missing {
	case host.PoolStopped:
		return "virsh pool-start " + pool + "; so that it starts with libvirt from now on: virsh pool-autostart " + pool
	case host.NoVolume:
		return "if its file is there: virsh pool-refresh " + pool
	case host.NoPool:
		return "define the pool again (virsh pool-define), or let the disk name its file (virsh edit)"
	case host.VolumeMoved:
		return "let the pool be what it was when the guest was started, or let the disk name the file on which the guest runs, before it stops (virsh edit)"
	case host.NotTold:
		return "see that libvirt's storage daemon runs (virtstoraged, or libvirtd): virsh pool-list --all"
	}
	return leave
}

func destroyedRemedy(r Refusal) string {
	if i := strings.Index(r.Detail, "virt-rotate doctor --forget"); i >= 0 {
		return "see that nothing can be had from another copy; then: " + r.Detail[i:]
	}
	return "stop the guest that writes to it"
}
