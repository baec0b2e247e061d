package decide

import (
	"fmt"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// Of some disks no snapshot can be taken, whatever is done about them. By the policy's
// on_unsuitable they cost the domain its snapshots, or are left out and told. What is
// broken is no such disk: an image that cannot be read, or that contradicts its chain, is
// seen to, not left out.

// wanted tells whether the policy wants the disk in snapshots.
func (b *builder) wanted(disk *host.Disk) bool {
	return (disk.Device == "disk" || disk.Device == "lun") && !disk.ReadOnly && (b.rule.Covers(disk.Target) || slices.Contains(b.also, disk.Target))
}

// covers tells whether snapshots have the disk.
func (b *builder) covers(disk *host.Disk) bool {
	return b.wanted(disk) && !b.liveOnly(disk) && !b.skipped(disk)
}

// skipped tells whether the disk is left out, since no snapshot can be taken of it.
func (b *builder) skipped(disk *host.Disk) bool {
	return b.skipsUnsuitable() && len(b.unsuitable(disk)) > 0
}

func (b *builder) skipsUnsuitable() bool { return b.rule.OnUnsuitable == policy.UnsuitableSkip }

// unsuitable says why no snapshot can be taken of the disk; nil where one can.
func (b *builder) unsuitable(disk *host.Disk) []Refusal {
	var why []Refusal
	add := func(code, detail string) { why = append(why, Refusal{code, disk.Target, detail}) }
	if code, detail := disk.Kind.Obstacle(); code != "" && disk.MissingVolume() == nil {
		add(code, detail)
	}
	if disk.Device == "lun" {
		add(host.CodeDiskKind, "a device='lun' disk passes SCSI commands through: it cannot have an overlay")
	}
	if disk.Shareable {
		add(host.CodeShareable, "a shareable disk is written by others too: an overlay would hide their writes")
	}
	if disk.Transient {
		add(host.CodeTransDisk, "a <transient/> disk is thrown away when the guest stops")
	}
	if disk.Encrypted {
		add(host.CodeEncrypted, "an overlay on an encrypted disk would hold guest data in clear")
	}
	if code, path, detail := host.ChainProblem(disk); len(why) == 0 && !b.w.Remote && ofNature(code) {
		why = append(why, Refusal{code, path, detail})
	}
	return why
}

// ofNature tells whether a problem of a chain is what its images are, and not what has
// become of them.
func ofNature(code string) bool {
	return slices.Contains([]string{host.CodeDiskKind, host.CodeFormat, host.CodeEncrypted, host.CodeDataFile}, code)
}

// tellSkipped notes which disks are left out, and why.
func (b *builder) tellSkipped() {
	for i := range b.disks {
		disk := &b.disks[i]
		if !b.wanted(disk) || b.liveOnly(disk) || !b.skipped(disk) {
			continue
		}
		for _, r := range b.unsuitable(disk) {
			if r.Path != disk.Target {
				r = Refusal{r.Code, disk.Target, r.Path + ": " + r.Detail}
			}
			b.plan.skip(r)
		}
	}
}

// leftOut lists the disks that the policy wants and snapshots do not have, each with the
// code of the reason.
func (b *builder) leftOut() []string {
	var out []string
	for i := range b.disks {
		disk := &b.disks[i]
		switch {
		case !b.wanted(disk):
		case b.liveOnly(disk):
			out = append(out, disk.Target+": "+host.CodeLiveOnly)
		case b.skipped(disk):
			out = append(out, disk.Target+": "+b.unsuitable(disk)[0].Code)
		}
	}
	return out
}

// refuseUncovered refuses a domain without a disk of which a snapshot is to be taken.
func (b *builder) refuseUncovered() {
	if b.tellLiveOnly(); len(b.plan.Refused) > 0 {
		return
	}
	detail := "the policy covers none of the domain's writable disks"
	if out := b.leftOut(); len(out) > 0 {
		detail = "there is none that a snapshot can be taken of: " + strings.Join(out, ", ")
	}
	b.refuse(host.CodeNoDisk, "", detail)
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
		if !b.liveOnly(disk) || disk.Device != "disk" || !b.wanted(disk) {
			continue
		}
		r := Refusal{host.CodeLiveOnly, disk.Target, "the persistent configuration lacks the disk: the guest would start without it, so it is left out, and the others are rotated; to have it for good: virsh attach-device with --config"}
		if b.skipsUnsuitable() {
			b.plan.skip(r)
		} else {
			b.plan.Refused = append(b.plan.Refused, r)
		}
	}
}

// excludeRemedy tells how a disk is left out: this one for good, or whichever there is.
func excludeRemedy(target string) string {
	return fmt.Sprintf("leave the disk out: exclude_disks = [%q] in the policy, or on_unsuitable = \"skip\" for all of which no snapshot can be taken", target)
}

// targetWith is the target of the disk that a path is about: its own, or that of the disk
// in whose chain it is.
func targetWith(d *host.Domain, path string) string {
	for i := range d.Disks {
		if d.Disks[i].Index(path) >= 0 {
			return d.Disks[i].Target
		}
	}
	return path
}
