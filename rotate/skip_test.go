package rotate

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// An unsuitableDisk is one of which no snapshot can be taken, with the code of the reason.
type unsuitableDisk struct {
	code  string
	name  string
	make_ func(h *hosttest.Host, d *host.Disk)
}

var unsuitable = []unsuitableDisk{
	{host.CodeNetworkDisk, "", func(_ *hosttest.Host, d *host.Disk) { d.Kind, d.Chain[0].Kind = host.KindNetwork, host.KindNetwork }},
	{host.CodeDiskKind, "nvme", func(_ *hosttest.Host, d *host.Disk) { d.Kind, d.Chain[0].Kind = host.KindNVMe, host.KindNVMe }},
	{host.CodeDiskKind, "vhostuser", func(_ *hosttest.Host, d *host.Disk) {
		d.Kind, d.Chain[0].Kind = host.KindVHostUser, host.KindVHostUser
	}},
	{host.CodeDiskKind, "lun", func(_ *hosttest.Host, d *host.Disk) { d.Device = "lun" }},
	{host.CodeDiskKind, "layer", func(_ *hosttest.Host, d *host.Disk) { d.Chain[0].Kind = host.KindNetwork }},
	{host.CodeShareable, "", func(_ *hosttest.Host, d *host.Disk) { d.Shareable = true }},
	{host.CodeTransDisk, "", func(_ *hosttest.Host, d *host.Disk) { d.Transient = true }},
	{host.CodeEncrypted, "disk", func(_ *hosttest.Host, d *host.Disk) { d.Encrypted = true }},
	{host.CodeEncrypted, "image", func(h *hosttest.Host, d *host.Disk) {
		h.Change(d.Chain[0].Path, func(i *hosttest.Image) { i.Encrypted = true })
	}},
	{host.CodeDataFile, "", func(h *hosttest.Host, d *host.Disk) {
		h.Change(d.Chain[0].Path, func(i *hosttest.Image) { i.DataFile = true })
	}},
	{host.CodeFormat, "", func(_ *hosttest.Host, d *host.Disk) { d.Chain[0].Format = "vmdk" }},
	{host.CodeLiveOnly, "", func(_ *hosttest.Host, d *host.Disk) { d.Inactive = nil }},
}

func skips(r *policy.Rule) { r.OnUnsuitable = policy.UnsuitableSkip }

// One disk that no snapshot can be taken of is left out, by its name or by what it is: the
// others are rotated. What is skipped is told, and nothing is refused.
func TestOneUnsuitableDiskDoesNotCostTheOthers(t *testing.T) {
	for _, u := range unsuitable {
		for _, state := range []host.State{host.Running, host.ShutOff} {
			if u.code == host.CodeLiveOnly && state == host.ShutOff {
				continue
			}
			for name, change := range map[string]func(*policy.Rule){
				"skip": skips, "exclude": func(r *policy.Rule) { r.ExcludeDisks = []string{"vdb"} },
			} {
				t.Run(strings.Join([]string{u.code, u.name, string(state), name}, " "), func(t *testing.T) {
					h, web := besideUnsuitable(t, u.make_)
					web.State = state
					r := rotator(h, with(rule(2), change))
					w := see(h, t)
					status := Status(w, w.Domain("web"), r.rule(), nil, h.Now)
					p := runAll(h, t, r)["web"]
					if p.Result != decide.ResultDone || len(p.Refused) > 0 || slices.ContainsFunc(p.Steps, func(s decide.Step) bool { return s.Disk == "vdb" }) {
						t.Fatalf("%+v", p)
					}
					taken := web.Snapshots[len(web.Snapshots)-1]
					if taken.OverlayOf("vda") == "" || taken.OverlayOf("vdb") != "" || !taken.Ours() {
						t.Errorf("snapshot %+v", taken)
					}
					want := ""
					if name == "skip" {
						want = "vdb: " + u.code
					}
					if taken.LeftOut() != want || skippedIn(p.Skipped) != want || skippedIn(status.Skipped) != want || len(status.Refused) > 0 {
						t.Errorf("want %q: the description says %q, run %+v, status %+v", want, taken.Description, p.Skipped, status)
					}
					checkData(h, t)
				})
			}
		}
	}
}

// besideUnsuitable has snapshots of vda, and vdb of which none can be taken.
func besideUnsuitable(t *testing.T, make_ func(*hosttest.Host, *host.Disk)) (*hosttest.Host, *hosttest.Domain) {
	t.Helper()
	h := hosttest.New(t)
	web := h.Add("web")
	h.Disk(web, "vda", "web.qcow2")
	h.Take(web, []int{9, 10}, "vda")
	h.Disk(web, "vdb", "data.qcow2")
	make_(h, &web.Disks[1])
	return h, web
}

func skippedIn(skipped []decide.Refusal) string {
	var all []string
	for _, s := range skipped {
		all = append(all, s.Path+": "+s.Code)
	}
	return strings.Join(all, ", ")
}

// Without a word in the policy the domain is refused, and the ways out are named.
func TestTheRemedyForAnUnsuitableDiskNamesBothWays(t *testing.T) {
	for _, u := range unsuitable {
		if u.code == host.CodeLiveOnly {
			continue // the others are rotated all the same
		}
		h, _ := besideUnsuitable(t, u.make_)
		r := rotator(h, rule(2))
		p := planOf(h, t, r, "web")
		if p.Result != decide.ResultRefused || len(p.Refused) != 1 || p.Refused[0].Code != u.code || len(p.Skipped) > 0 {
			t.Errorf("%s %s: %+v", u.code, u.name, p)
			continue
		}
		w := see(h, t)
		found := decide.Diagnose(w, []string{"web"}, r.Match(guests("web")), h.Now)
		if len(found) != 1 || found[0].Note {
			t.Errorf("%s %s: doctor tells %+v", u.code, u.name, found)
			continue
		}
		for _, text := range []string{p.Refused[0].Detail, found[0].Remedy} {
			if !strings.Contains(text, `exclude_disks = ["vdb"]`) || !strings.Contains(text, `on_unsuitable = "skip"`) {
				t.Errorf("%s %s: %s", u.code, u.name, text)
			}
		}
	}
}

// What is skipped is good to know, and no problem.
func TestDoctorNotesWhatIsSkipped(t *testing.T) {
	for _, u := range unsuitable {
		h, _ := besideUnsuitable(t, u.make_)
		r := rotator(h, with(rule(2), skips))
		found := decide.Diagnose(see(h, t), []string{"web"}, r.Match(guests("web")), h.Now)
		if len(found) != 1 || !found[0].Note || found[0].Code != u.code || found[0].Remedy == "" {
			t.Errorf("%s %s: %+v", u.code, u.name, found)
		}
		r = rotator(h, with(rule(2), func(r *policy.Rule) { r.ExcludeDisks = []string{"vdb"} }))
		if found := decide.Diagnose(see(h, t), []string{"web"}, r.Match(guests("web")), h.Now); len(found) > 0 {
			t.Errorf("%s %s: excluded: %+v", u.code, u.name, found)
		}
	}
}

// What is broken is no reason to leave a disk out, and a domain of which nothing is left
// gets no snapshot.
func TestSkippingIsForWhatDisksAre(t *testing.T) {
	for _, c := range refusals() {
		h, r := situation{host: c.host}.host(t)
		skipping := with(r.rule(), skips)
		p := planOf(h, t, rotator(h, skipping), "web")
		kind := slices.ContainsFunc(unsuitable, func(u unsuitableDisk) bool { return u.code == c.code })
		refused := func(code string) bool {
			return slices.ContainsFunc(p.Refused, func(r decide.Refusal) bool { return r.Code == code })
		}
		if len(p.Steps) > 0 || p.Result != decide.ResultRefused || kind && !refused(host.CodeNoDisk) || !kind && !refused(c.code) {
			t.Errorf("%s %s: %+v", c.code, c.name, p)
		}
	}
}

// The disks that a snapshot lacks stay as they are when a guest goes back to it, and that
// is told; those that have become unsuitable since are in the way of their own way back only.
func TestDisksThatASnapshotLacksStay(t *testing.T) {
	h, web := besideUnsuitable(t, func(_ *hosttest.Host, d *host.Disk) { d.Shareable = true })
	for _, change := range []func(*policy.Rule){skips, func(*policy.Rule) {}} {
		web.State = host.Running
		h.Now = h.Now.Add(2 * time.Hour)
		r := rotator(h, with(rule(9), skips))
		runAll(h, t, r)
		h.Write(web, "vda", 3)
		h.Write(web, "vdb", 4)
		web.State = host.ShutOff
		before := fmt.Sprint(host.Paths(web.Disks[1].Chain))
		p := back(t, h, rotator(h, with(rule(9), change)), web, web.Snapshots[len(web.Snapshots)-1].Name, decide.RestoreOptions{})
		if p.Result != decide.ResultDone || before != fmt.Sprint(host.Paths(web.Disks[1].Chain)) || len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "vdb, which the snapshot was taken without, stays") {
			t.Errorf("%+v", p)
		}
		if skippedIn(p.Skipped) != "vdb: shareable-disk" {
			t.Errorf("of the present state: %+v", p.Skipped)
		}
	}
	p := back(t, h, rotator(h, rule(9)), web, hosttest.Name(9), decide.RestoreOptions{})
	if p.Result != decide.ResultDone || len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "vdb, which came after the snapshot, stays") {
		t.Errorf("%+v", p)
	}
}
