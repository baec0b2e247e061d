package rotate

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
)

// refusalsOf lists what a run would refuse of the domain now, by its rule, or by one that
// drops nothing where no policy covers it.
func refusalsOf(w *World, d *Domain, rule *policy.Rule, now time.Time) []Refusal {
	if rule != nil {
		return Decide(w, d, rule, now, Options{}).Refused
	}
	b := doctorsBuilder(w, d)
	b.missedPivots()
	b.checkDomain()
	b.checkLost()
	if len(b.plan.Refused) == 0 {
		b.finishEarlier()
	}
	return b.plan.Refused
}

// findingOf turns a refusal into a finding, with what to do about it.
func findingOf(d *Domain, r Refusal) Finding {
	return Finding{Code: findingCode(r.Code), Domain: d.Name, Path: r.Path, Detail: r.Detail, Remedy: remedyOf(d, r)}
}

// findingCode is the name that a refusal has as a finding.
func findingCode(code string) string {
	switch code {
	case CodeMismatch:
		return FindMismatch
	case CodeBlockJob:
		return FindJob
	}
	return code
}

// remedyOf says what an administrator does about a refusal. No remedy costs a state that a
// snapshot keeps, unless it names that snapshot.
func remedyOf(d *Domain, r Refusal) string {
	switch r.Code {
	case CodeInternal:
		return internalRemedy(d, r)
	case CodeForeignOverlay:
		return foreignOverlayRemedy(d, r)
	case CodeDestroyed:
		return destroyedRemedy(r)
	}
	name := quoted(d.Name)
	for _, remedies := range []map[string]string{domainRemedies(name), storageRemedies(name), diskRemedies(name, r.Path)} {
		if text := remedies[r.Code]; text != "" {
			return text
		}
	}
	return "see docs/recovery.md"
}

// domainRemedies are about a domain as a whole, by code.
func domainRemedies(name string) map[string]string {
	return map[string]string{
		CodeRemote:       "run virt-rotate on that host",
		CodeState:        "wait until that is over: virsh domstate " + name,
		CodeTransient:    "make it persistent: virsh dumpxml " + name + " > domain.xml; virsh define domain.xml",
		CodeManagedSave:  "virsh start " + name + " goes on from the saved state; if that is not needed: virsh managedsave-remove " + name,
		CodeInactive:     "make the persistent configuration name the running chain (virsh edit), before the guest stops",
		CodeNoDisk:       "see disks and exclude_disks in the policy, or take the domain out of it",
		CodeIOError:      "free space where its images are, then: virsh resume " + name,
		CodeRestart:      "virt-rotate run " + name + " sees to it that the guest starts from the right image; then shut it down and start it",
		CodeForeign:      "delete it with the program that took it",
		CodeStopped:      "docs/recovery.md says what to look at",
		CodeLeftover:     "docs/recovery.md says what to look at",
		CodeStale:        "virt-rotate doctor " + name + " tells which of the two files to look at",
		CodeIntent:       "virt-rotate run " + name + "; if its file cannot be read, docs/recovery.md",
		CodeNoGuestAgent: "see to the guest agent, or say quiesce = \"auto\"",
		CodeHook:         "see why the hook failed",
		CodeFault:        "report it, with the output of virsh dumpxml " + name,
		CodeTwoPolicies:  "take the domain out of all policies but one with exclude",
		CodeMetadata:     "what libvirt has on record there holds more than this version knows; a newer one may",
		CodeCheckpoints:  "start the guest; or, if the backup program is not to go on from it: virsh checkpoint-list " + name + " and virsh checkpoint-delete while it runs",
		CodeInUse:        "let the process end; a domain that runs on another host must not be defined here: undefine it once that host has its definition and the metadata of its snapshots, for both go from here with it",
	}
}

// storageRemedies are about what its images lie on, and where they stand, by code.
func storageRemedies(name string) map[string]string {
	return map[string]string{
		CodeDataFile:    "leave the disk out (exclude_disks in the policy), or convert the image to qcow2 while the guest is off",
		CodeFormat:      "leave the disk out (exclude_disks in the policy), or convert the image to qcow2 while the guest is off",
		CodeUnreadable:  "see that it is there and can be read (is its storage mounted?); never let a guest start without a layer",
		CodeMismatch:    "do not start, merge or delete anything before you know which of the two is right: docs/recovery.md",
		CodeOverlayDir:  "set overlay_dir in the policy to a directory that is there",
		CodeNameTooLong: "set overlay_dir in the policy to a directory that is there",
		CodeComma:       "start the guest: a snapshot of a running one is sound; or rename the image while the guest is off",
		CodeChainLong:   "virt-rotate tree " + name + " shows who keeps the layers; release what is not needed, or raise max_chain",
		CodeNoSpace:     "free space there, or lower min_free",
		CodeSize:        "free space there, or lower min_free",
		CodeShared:      "give each domain an image of its own, or undefine the one that does not belong",
		CodeMethod:      "use method = \"auto\", or put the images on XFS or btrfs",
		CodeLocalLocks:  "mount the storage without nolock and local_lock (NFS 4 has locks of its own)",
		CodeDoubt:       "see to the image that is named; one that is surely no user of the layer may be named in [storage] ignore",
	}
}

// diskRemedies are about a disk or an image, by code.
func diskRemedies(name, path string) map[string]string {
	return map[string]string{
		CodeBlockJob:    "let it end; if nobody waits for it: virsh blockjob " + name + " " + quoted(path) + " --abort",
		CodeNetworkDisk: fmt.Sprintf("leave the disk out: exclude_disks = [%q] in the policy", path),
		CodeVolumeDisk:  fmt.Sprintf("leave the disk out: exclude_disks = [%q] in the policy", path),
		CodeDiskKind:    fmt.Sprintf("leave the disk out: exclude_disks = [%q] in the policy", path),
		CodeShareable:   fmt.Sprintf("leave the disk out: exclude_disks = [%q] in the policy", path),
		CodeTransDisk:   fmt.Sprintf("leave the disk out: exclude_disks = [%q] in the policy", path),
		CodeEncrypted:   fmt.Sprintf("leave the disk out: exclude_disks = [%q] in the policy", path),
		CodeCorrupt:     "shut the guest down and look at it: virt-rotate image check " + quoted(path),
		CodeLiveOnly:    "to have the disk for good: virsh attach-device " + name + " DISK.xml --config; to be rid of it: virsh detach-disk " + name + " " + quoted(path) + " --live",
	}
}

func internalRemedy(d *Domain, r Refusal) string {
	if i := slices.IndexFunc(d.Snapshots, func(s Snapshot) bool { return s.Internal }); i >= 0 && r.Path == "" {
		return fmt.Sprintf("if it is not needed: virsh snapshot-delete %s %s", quoted(d.Name), quoted(d.Snapshots[i].Name))
	}
	return "libvirt does not list it: qemu-img snapshot -l " + quoted(r.Path) + " does; while the guest is off, qemu-img snapshot -d NAME " + quoted(r.Path) + " deletes one that is not needed"
}

// foreignOverlayRemedy tells how to end what another program has begun: a merge of its
// overlay alone keeps all below, unless that is a snapshot's state; then the overlay is
// filled instead, and stands by itself.
func foreignOverlayRemedy(d *Domain, r Refusal) string {
	const wait = "let that program finish; if it has died, "
	for i := range d.Disks {
		disk := &d.Disks[i]
		k := disk.index(r.Path)
		if k < 1 {
			continue
		}
		name, below := quoted(d.Name), disk.Chain[k-1].Path
		switch {
		case d.isState(below) && !d.State.Live():
			return wait + "start the guest, and let its disk stand by itself (a merge would cost the snapshot whose state is below): virsh blockpull " + name + " " + disk.Target + " --wait"
		case d.isState(below):
			return wait + "let the disk stand by itself (a merge would cost the snapshot whose state is below): virsh blockpull " + name + " " + disk.Target + " --wait"
		case !d.State.Live():
			return wait + "start the guest, and see what virt-rotate doctor " + name + " says then"
		case k == len(disk.Chain)-1:
			return fmt.Sprintf("%smerge its overlay alone: virsh blockcommit %s %s --active --shallow --pivot --wait", wait, name, disk.Target)
		default:
			return fmt.Sprintf("%smerge its overlay alone: virsh blockcommit %s %s --base %s --top %s --wait", wait, name, disk.Target, quoted(below), quoted(r.Path))
		}
	}
	return "let that program finish"
}

func destroyedRemedy(r Refusal) string {
	if i := strings.Index(r.Detail, "virt-rotate doctor --forget"); i >= 0 {
		return "see that nothing can be had from another copy; then: " + r.Detail[i:]
	}
	return "stop the guest that writes to it"
}
