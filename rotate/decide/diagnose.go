package decide

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// Codes of findings: stable names for scripts and for the manual.
const (
	FindIntent   = "unfinished-run"
	FindStale    = "stale-metadata"
	FindMissing  = "missing-file"
	FindMismatch = "wrong-backing-file"
	FindConfig   = "configuration-differs"
	FindOrphan   = "orphan"
	FindUnlisted = "unlisted-overlay"
	FindJob      = "stuck-job"
	FindMode     = "readable-by-others"
	FindAppArmor = "apparmor"
	FindFuture   = "time-in-future"
	FindStrange  = "unreadable-image"
	FindUEFI     = "nvram-not-covered"
	FindTPM      = "tpm-not-covered"
	FindRestart  = "restart-needed"
	FindTip      = "disk-taken-out"
	FindWide     = "large-storage"
	FindUseless  = "of-no-use"
	FindRoot     = "not-root"
)

// A Finding is something on the host that is not as it should be.
type Finding struct {
	Code    string `json:"code"`
	Domain  string `json:"domain,omitempty"`
	Path    string `json:"path,omitempty"`
	Detail  string `json:"detail"`
	Remedy  string `json:"remedy"`
	Fixable bool   `json:"fixable"` // doctor --fix mends it
	Fixed   bool   `json:"fixed"`
	Note    bool   `json:"note"` // good to know, nothing is wrong

	Snapshot string `json:"-"` // the one whose metadata is wrong
}

// Diagnose looks for leftovers and inconsistencies of the named domains, or
// of all, and for what a run would refuse by the rules. A domain without a rule is looked
// at, too, if virt-rotate has to do with it: leftovers outlive policies.
func Diagnose(w *observe.World, names []string, rules policy.Assignment, now time.Time) []Finding {
	var found []Finding
	for i := range w.Domains {
		d := &w.Domains[i]
		if len(names) == 0 || slices.Contains(names, d.Name) {
			if f := host.Contain(d.Name, func() { found = append(found, diagnoseDomain(w, d, rules.Rules[d.Name], now)...) }); f != nil {
				found = append(found, faultFinding(f))
			}
			if c := rules.Conflicts[d.Name]; c != nil {
				found = append(found, FindingOf(d, ConflictPlan(d, c).Refused[0]))
			}
		}
	}
	if len(names) == 0 {
		found = append(found, orphans(w)...)
		found = append(found, strangers(w)...)
		found = append(found, sharesInDoubt(w)...)
		found = append(found, lostIntents(w)...)
		found = append(found, goneMoves(w)...)
		found = append(found, notes(w)...)
	}
	return found
}

// notes tells what is good to know of the host.
func notes(w *observe.World) []Finding {
	var found []Finding
	for _, top := range w.TooWide {
		found = append(found, Finding{Code: FindWide, Path: top, Note: true,
			Detail: "it holds too many files to be searched for users of layers: only the directories of layers there, and those below them, are",
			Remedy: "name other directories there that have images in [storage] scan, and what holds none in [storage] ignore"})
	}
	for _, files := range w.Useless {
		for _, f := range files {
			if w.There(f.Path) {
				found = append(found, Finding{Code: FindUseless, Path: f.Path, Note: true,
					Detail: "the snapshots that it was of use to were given up; what it builds on has been written to since",
					Remedy: "delete it, if nobody else has a use for it"})
			}
		}
	}
	slices.SortFunc(found, func(a, b Finding) int { return strings.Compare(a.Code+a.Path, b.Code+b.Path) })
	return found
}

func faultFinding(f *host.Fault) Finding {
	return Finding{Code: host.CodeFault, Domain: f.Domain, Detail: f.Error(), Remedy: "send the output of virt-rotate plan " + f.Domain + " and virsh dumpxml " + f.Domain + " with your report"}
}

func diagnoseDomain(w *observe.World, d *host.Domain, rule *policy.Rule, now time.Time) []Finding {
	var found []Finding
	add := func(f Finding) {
		f.Domain = d.Name
		found = append(found, f)
	}
	if in := w.Intents[d.UUID]; in != nil && in.Broken == "" {
		add(intentFinding(d, in))
	}
	if m := w.Moves[d.UUID]; m != nil && rule == nil && !touched(d) {
		add(FindingOf(d, Refusal{host.CodeMove, "", openMove(m)}))
	}
	if d.Problem != "" {
		add(Finding{Code: FindStrange, Detail: d.Problem, Remedy: "look at virsh dumpxml and snapshot-dumpxml of the domain"})
		return append(found, refusedBeside(w, d, rule, now)...)
	}
	if !touched(d) && rule == nil {
		return found
	}
	if missed := missedEnds(w, d); len(missed) > 0 {
		return append(found, missed...) // what libvirt says of the disks is not what runs
	}
	if touched(d) {
		for i := range d.Disks {
			diagnoseDisk(w, d, &d.Disks[i], add)
		}
		diagnoseSnapshots(w, d, now, add)
	}
	if d.IOError {
		add(FindingOf(d, Refusal{host.CodeIOError, "", "the guest is paused because of an I/O error, as when its storage is full"}))
	}
	refused, skipped := refusalsOf(w, d, rule, now)
	for _, r := range refused {
		if !told(found, r) {
			add(FindingOf(d, r))
		}
	}
	for _, r := range skipped {
		add(skippedFinding(d, r))
	}
	return found
}

// skippedFinding tells of a disk that snapshots are taken without, by the policy.
func skippedFinding(d *host.Domain, r Refusal) Finding {
	f := FindingOf(d, r)
	f.Note, f.Detail = true, "snapshots are taken without the disk: "+r.Detail
	if r.Code != host.CodeLiveOnly {
		f.Remedy = fmt.Sprintf("none is needed if that is as it should be; exclude_disks = [%q] in the policy says so for good", r.Path)
	}
	return f
}

// refusedBeside tells what a run would refuse of a domain that could not be read in full,
// beside that.
func refusedBeside(w *observe.World, d *host.Domain, rule *policy.Rule, now time.Time) []Finding {
	var found []Finding
	if !touched(d) && rule == nil {
		return nil
	}
	refused, _ := refusalsOf(w, d, rule, now)
	for _, r := range refused {
		if r.Code != host.CodeUnreadable || r.Detail != d.Problem && r.Detail != host.NotRead {
			found = append(found, FindingOf(d, r))
		}
	}
	return found
}

// told tells whether a finding says already what would be refused.
func told(found []Finding, r Refusal) bool {
	code := FindingOf(&host.Domain{}, r).Code
	return slices.ContainsFunc(found, func(f Finding) bool {
		return f.Code == code && (f.Path == r.Path || f.Path == "" || r.Path == "") && !f.Note
	})
}

func intentFinding(d *host.Domain, in *journal.Intent) Finding {
	began := in.Started.Format("2006-01-02 15:04:05")
	if in.Adoption != nil {
		return FindingOf(d, Refusal{host.CodeAdoption, "", "the adoption of its internal snapshots, of " + began + ", was interrupted"})
	}
	if in.Quiesce && len(in.Files()) == 0 {
		return Finding{Code: FindIntent, Detail: "the run of " + began + " could not thaw the guest: its file systems may be frozen",
			Remedy: "virsh domfsthaw " + d.Name + "; then virt-rotate run " + d.Name + " forgets about it"}
	}
	return Finding{Code: FindIntent, Detail: "the run of " + began + " was interrupted", Remedy: "virt-rotate run " + d.Name + " finishes it"}
}

// missedEnds tells of the merges whose end libvirt has missed, whether the guest runs or has
// stopped since.
func missedEnds(w *observe.World, d *host.Domain) []Finding {
	b := doctorsBuilder(w, d)
	b.missedPivots()
	b.checkLost()
	var found []Finding
	for _, r := range b.plan.Refused {
		found = append(found, FindingOf(d, r))
	}
	return found
}

// touched tells whether virt-rotate has to do with the domain: other domains
// are not ours to judge.
func touched(d *host.Domain) bool {
	for i := range d.Snapshots {
		if d.Snapshots[i].Ours() {
			return true
		}
	}
	for i := range d.Disks {
		for _, l := range d.Disks[i].Chain {
			if host.IsOverlay(l.Path) {
				return true
			}
		}
	}
	return false
}

func diagnoseDisk(w *observe.World, d *host.Domain, disk *host.Disk, add func(Finding)) {
	if disk.ReadOnly || !disk.Kind.HasPath() {
		return
	}
	if !w.Remote {
		if code, path, detail := host.ChainProblem(disk); code != "" && !ofNature(code) { // what it is, the policy may leave out
			add(FindingOf(d, Refusal{code, path, detail}))
		}
	}
	if detail := host.InactiveProblem(disk); detail != "" && !d.Transient && len(disk.Chain) > 0 && len(disk.Inactive) > 0 {
		add(FindingOf(d, Refusal{host.CodeInactive, disk.Active().Path, detail}))
	}
	if disk.Job != nil {
		diagnoseJob(w, d, disk, add)
	}
	b := doctorsBuilder(w, d)
	for i := range disk.Chain {
		l := &disk.Chain[i]
		if i > 0 && !w.Remote && host.IsOverlay(l.Path) && !b.inMetadata(l.Path) && !w.IsReleased(d, l) {
			add(Finding{Code: FindUnlisted, Path: l.Path,
				Detail: "no snapshot names this overlay of ours, and virt-rotate did not drop its snapshot: the list of snapshots may have been lost",
				Remedy: "if the state below it is not needed, let the next run merge it: " + forgetCommand(d.Name, host.SnapshotOf(l.Path))})
		}
		if host.IsOverlay(l.Path) && l.Mode&0o077 != 0 {
			add(Finding{Code: FindMode, Path: l.Path, Fixable: true, Detail: fmt.Sprintf("mode %04o: others can read what the guest wrote", l.Mode),
				Remedy: "chmod 0600 " + l.Path})
		}
	}
	if d.AppArmor && len(disk.Chain) > 1 {
		add(appArmorFinding(disk, d))
	}
}

func diagnoseJob(w *observe.World, d *host.Domain, disk *host.Disk, add func(Finding)) {
	f := Finding{Code: FindJob, Path: disk.Target,
		Detail: fmt.Sprintf("a block job of type %q runs, at %s of %s", disk.Job.Type, host.Bytes(disk.Job.Done), host.Bytes(disk.Job.Size)),
		Remedy: fmt.Sprintf("if nobody waits for it: virsh blockjob %s %s --abort", d.Name, disk.Target)}
	if disk.Job.Ready {
		f.Detail += ", ready to pivot"
		f.Remedy = readyRemedy(d, disk)
	}
	if w.Intents[d.UUID] != nil {
		f.Remedy = "virt-rotate run " + d.Name + " takes it over"
	}
	add(f)
}

// readyRemedy ends a job that waits. What a commit has merged is in the layer below already,
// and a copy is whole: to pivot loses nothing.
func readyRemedy(d *host.Domain, disk *host.Disk) string {
	return fmt.Sprintf("if nobody waits for it: virsh blockjob %s %s --pivot", host.Quoted(d.Name), disk.Target)
}

func diagnoseSnapshots(w *observe.World, d *host.Domain, now time.Time, add func(Finding)) {
	b := doctorsBuilder(w, d)
	stale := b.fixes()
	for i := range d.Snapshots {
		s := &d.Snapshots[i]
		if _, ok := stale[s.Name]; ok {
			add(Finding{Code: FindStale, Snapshot: s.Name, Fixable: !w.Remote, Detail: "the metadata of snapshot " + s.Name + " does not name the chain as it is",
				Remedy: "virt-rotate doctor --fix " + d.Name + " redefines it"})
		}
		for j := range s.Disks {
			if actual := b.contradicts(&s.Disks[j]); actual != "" {
				add(contradiction(b, s, &s.Disks[j], actual))
			}
		}
		if _, there := w.Left[s.Memory]; s.Memory != "" && !there && !w.Remote {
			add(Finding{Code: FindMissing, Path: s.Memory, Snapshot: s.Name, Detail: "snapshot " + s.Name + " has the guest's memory there, but it is not there",
				Remedy: "put the file back, if there is a copy; without it virt-rotate restore --without-memory goes back to the disks"})
		}
		for _, sd := range s.Disks {
			if path := missing(w, d, &sd); path != "" {
				add(Finding{Code: FindMissing, Path: path, Detail: "snapshot " + s.Name + " names it for " + sd.Target + ", but it is not there",
					Remedy: "if the file is lost for good: " + forgetCommand(d.Name, s.Name)})
			}
		}
	}
	for i := range d.Snapshots {
		if s := &d.Snapshots[i]; s.Ours() && s.Time.After(now.Add(time.Minute)) {
			add(Finding{Code: FindFuture, Detail: "snapshot " + s.Name + " was taken in the future: the clock went backwards, and it is kept until then",
				Remedy: "if it is not needed: " + forgetCommand(d.Name, s.Name)})
		}
	}
	if d.UEFI && d.Firmware.NVRAM == "" && len(d.Snapshots) > 0 {
		add(Finding{Code: FindUEFI, Note: true, Detail: "the guest has UEFI variables that are not in a raw file of this host: snapshots do not hold them",
			Remedy: "back them up by other means if boot entries matter"})
	}
	if d.HasTPM && d.Firmware.TPM == "" && len(d.Snapshots) > 0 {
		add(Finding{Code: FindTPM, Note: true, Detail: "the guest has an emulated TPM, whose state was not found: snapshots do not hold it",
			Remedy: "back it up by other means if keys are sealed in it"})
	}
}

// doctorsBuilder believes the chain where the file that the metadata names is
// lost: nothing else can hold the state then.
func doctorsBuilder(w *observe.World, d *host.Domain) *builder {
	b := newBuilder(w, d, &policy.Rule{}, time.Time{}, Options{})
	b.trustLost = true
	return b
}

// DoctorsFixes returns what the metadata of each snapshot that is not as it should be has
// to say, where a state whose file is lost is taken to be below the overlay.
func DoctorsFixes(w *observe.World, d *host.Domain) map[string]host.SnapshotFix {
	return doctorsBuilder(w, d).fixes()
}

func contradiction(b *builder, s *host.Snapshot, sd *host.SnapshotDisk, actual string) Finding {
	stored := sd.State[len(sd.State)-1]
	return Finding{Code: FindStale, Path: stored, Snapshot: s.Name,
		Detail: fmt.Sprintf("snapshot %s has its state of %s there by its metadata, but its overlay is on %s: somebody merged, pulled or rebased it by hand", s.Name, sd.Target, actual),
		Remedy: contradictionRemedy(b, s, sd, stored, actual)}
}

// contradictionRemedy keeps the state whatever was done: after a merge both files show it,
// after a pull the one that the metadata names.
func contradictionRemedy(b *builder, s *host.Snapshot, sd *host.SnapshotDisk, stored, actual string) string {
	name := host.Quoted(b.d.Name)
	first := ""
	for i := range b.d.Snapshots {
		if o := &b.d.Snapshots[i]; o.Name != s.Name && b.shared(sd, actual) && b.hasState(o, actual) {
			first += fmt.Sprintf("what %s had is lost: %s; ", o.Name, forgetCommand(b.d.Name, o.Name))
		}
	}
	if !b.w.There(stored) {
		return first + "then virt-rotate doctor --fix " + name
	}
	return fmt.Sprintf("compare the two: qemu-img compare -U %s %s. If they are identical, it was merged: %smv %s %s; virt-rotate doctor --fix %s. If not, it was pulled or rebased: keep the state (qemu-img convert -U -O qcow2 %s FILE), then give the snapshot up: %s",
		host.Quoted(stored), host.Quoted(actual), first, host.Quoted(stored), host.Quoted(stored+".old"), name, host.Quoted(stored), forgetCommand(b.d.Name, s.Name))
}

// hasState tells whether a snapshot has a state in the layer at path.
func (b *builder) hasState(s *host.Snapshot, path string) bool {
	return slices.ContainsFunc(s.Disks, func(sd host.SnapshotDisk) bool { return host.StateOf(b.d, &sd) == path })
}

// missing returns the file that holds the state of a snapshot's disk if it is not there.
func missing(w *observe.World, d *host.Domain, sd *host.SnapshotDisk) string {
	if w.Remote || sd.Overlay == "" || d.HasBelow(sd.Overlay) {
		return ""
	}
	path := host.StateOf(d, sd)
	if path == "" || d.Uses(path) {
		return ""
	}
	if w.There(path) {
		return ""
	}
	return path
}

// orphans finds files named like our overlays that no chain refers to.
func orphans(w *observe.World) []Finding {
	var found []Finding
	for path := range w.Taken {
		if host.IsMemory(path) && !w.IsLeftover(path) && !owned(w, path) {
			found = append(found, Finding{Code: FindOrphan, Path: path,
				Detail: "the memory of a guest, of a snapshot that is not there any more",
				Remedy: "delete it: without the disks of that moment it is of no use (virsh save-image-dumpxml shows whose it is)"})
		}
		if host.IsFirmware(path) && !w.IsLeftover(path) && !owned(w, path) {
			found = append(found, Finding{Code: FindOrphan, Path: path,
				Detail: "UEFI variables and TPM state of a snapshot that is not there any more, or of before a restore",
				Remedy: "delete it if nobody needs them (tar -tvf shows what is in it)"})
		}
		if !host.IsOverlay(path) || w.IsLeftover(path) {
			continue
		}
		if t, domain := w.TipAt(path); t != nil {
			found = append(found, Finding{Code: FindTip, Domain: domain, Path: path, Note: true,
				Detail: "it holds what disk " + t.Disk + " had when it was taken out; no snapshot needs it any more",
				Remedy: "attach it again if it is needed (virsh attach-disk), or delete it, and what only it builds on"})
			continue
		}
		l := w.Forest.Find(w.Key(path))
		if l == nil || len(l.Children) == 0 && len(l.Keepers) == 1 && l.Keepers[0] == "image "+path {
			found = append(found, Finding{Code: FindOrphan, Path: path,
				Detail: "named like an overlay of ours, but no domain, snapshot or image of this host refers to it",
				Remedy: "look into it (qemu-img info, qemu-img map); delete it only if no guest, here or on another host, needs it"})
		}
	}
	slices.SortFunc(found, func(a, b Finding) int { return strings.Compare(a.Path, b.Path) })
	return found
}

func owned(w *observe.World, path string) bool {
	return slices.ContainsFunc(w.Domains, func(d host.Domain) bool { return d.FileOwner(path) != "" })
}

func strangers(w *observe.World) []Finding {
	var found []Finding
	for _, s := range w.Strange {
		where := "in its directory"
		switch {
		case s.Names != "" && !w.HasLayerNamed(s.Names):
			continue
		case s.Names != "":
			where = "into or out of a layer of that name"
		case s.Anywhere:
			where = "on this host"
		}
		found = append(found, Finding{Code: FindStrange, Path: s.Path, Detail: s.Reason,
			Remedy: "nothing is merged " + where + " until then: " + strangeRemedy(&s)})
	}
	return found
}

// lostIntents finds intents of domains that are no longer there.
func lostIntents(w *observe.World) []Finding {
	var found []Finding
	for uuid, in := range w.Intents {
		if !slices.ContainsFunc(w.Domains, func(d host.Domain) bool { return d.UUID == uuid }) {
			found = append(found, Finding{Code: FindIntent, Domain: in.Domain,
				Detail: "an interrupted run left an intent, but the domain is not on this host any more",
				Remedy: "look at the files that it names, then remove it from the directory intents of the state directory"})
		}
	}
	slices.SortFunc(found, func(a, b Finding) int { return strings.Compare(a.Domain, b.Domain) })
	return found
}
