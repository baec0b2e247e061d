package rotate

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// reverted is a guest with two disks that libvirt has taken back to the snapshot of an hour.
func reverted(h *hosttest.Host, to int) *hosttest.Domain {
	web := h.Add("web")
	h.Disk(web, "vda", "web.qcow2")
	h.Disk(web, "vdb", "data.raw")
	h.Take(web, []int{8, 9, 10, 11})
	h.Revert(web, hosttest.Name(to))
	return web
}

// Rotation goes on after libvirt's own revert; when nobody keeps the branch that was left any
// more, nothing is left of it, nor of what libvirt has made.
func TestRotationGoesOnAfterLibvirtsRevert(t *testing.T) {
	for _, to := range []int{8, 9, 10, 11} {
		for _, live := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d, live %v", to, live), func(t *testing.T) {
				h := hosttest.New(t)
				web := reverted(h, to)
				r := rotator(h, rule(2))
				if p := planOf(h, t, r, "web"); len(p.Refused) > 0 || slices.ContainsFunc(p.Steps, func(s decide.Step) bool { return s.Op == decide.OpSnapshot }) {
					t.Errorf("a snapshot of what is there already: %+v", p)
				}
				for range 8 {
					if web.State = host.ShutOff; live {
						web.State = host.Running
					}
					h.Write(web, "vda", h.Written%16)
					h.Write(web, "vdb", h.Written%16)
					h.Now = h.Now.Add(2 * hosttest.Hour(1).Sub(hosttest.Hour(0)))
					if p := runAll(h, t, r)["web"]; p.Result != decide.ResultDone {
						t.Fatalf("%+v", p)
					}
					checkData(h, t)
				}
				if files := filesOf(h, t); len(files) != 6 || len(web.Snapshots) != 2 {
					t.Errorf("%d snapshots, files %q", len(web.Snapshots), files)
				}
				if left := journal.LoadReleased(filepath.Join(h.Dir, "state"), web.UUID); len(left) > 0 {
					t.Errorf("still on record: %v", left)
				}
			})
		}
	}
}

// Names do not grow, however often libvirt goes back.
func TestNamesDoNotGrowWithReverts(t *testing.T) {
	h := hosttest.New(t)
	web := reverted(h, 10)
	r := rotator(h, rule(3))
	for n := range 9 {
		web.State = host.Running
		h.Write(web, "vda", 3)
		h.Now = h.Now.Add(2 * hosttest.Hour(1).Sub(hosttest.Hour(0)))
		runAll(h, t, r)
		checkData(h, t)
		for _, f := range filesOf(h, t) {
			if name := filepath.Base(f); len(name) > len("web.p-20260101T120000Z_1.1767225600") || strings.Count(name, ".p-") > 1 {
				t.Errorf("%s has grown", name)
			}
		}
		h.Revert(web, web.Snapshots[len(web.Snapshots)-1-n%3].Name)
		checkData(h, t)
	}
}

// A file with a name like those of libvirt's revert that libvirt has not on record is another
// program's: nobody knows whether that still reads what is below.
func TestANameAloneMakesNoFileOurs(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one(9, 10, 11)(h, web)
	disk := &web.Disks[0]
	h.Create("web.1767225600", disk.Chain)
	disk.Chain = append(disk.Chain, host.Layer{Path: h.Img("web.1767225600"), Format: "qcow2", Kind: "file"})
	disk.Inactive = host.Paths(disk.Chain)
	web.Want["vda"] = h.Read(disk.Active().Path)
	p := runAll(h, t, rotator(h, rule(1)))["web"]
	if p.Result != decide.ResultRefused || p.Refused[0].Code != host.CodeForeignOverlay {
		t.Errorf("%+v", p)
	}
	checkData(h, t)
}

// Restore goes back to a state whose overlay libvirt has deleted, and to one on the new branch;
// the present of the new branch is kept.
func TestRestoreAfterLibvirtsRevert(t *testing.T) {
	for _, o := range []decide.RestoreOptions{{}, {DiscardNewer: true}} {
		h := hosttest.New(t)
		web := reverted(h, 9)
		h.Write(web, "vda", 3)
		r := rotator(h, rule(20))
		back(t, h, r, web, hosttest.Name(11), o)
		if !o.DiscardNewer && len(web.Snapshots) != 5 {
			t.Errorf("the present is not kept: %+v", web.Snapshots)
		}
		back(t, h, r, web, hosttest.Name(8), o)
		web.State, web.Cut = host.Running, false
		r = rotator(h, with(rule(1), func(r *policy.Rule) { r.Keep = policy.Keep{Last: 1} }))
		for range 6 {
			h.Write(web, "vda", 6)
			h.Now = h.Now.Add(2 * hosttest.Hour(1).Sub(hosttest.Hour(0)))
			runAll(h, t, r)
			checkData(h, t)
		}
		if files := filesOf(h, t); len(files) != 4 {
			t.Errorf("files %q", files)
		}
	}
}

// What the guest went back to is told, by whatever means it did.
func TestStatusTellsThatTheGuestWentBack(t *testing.T) {
	h := hosttest.New(t)
	web := reverted(h, 9)
	told := func() string {
		d := web.Observed(nil)
		if s := d.WentBack(); s != nil {
			return s.Name
		}
		return ""
	}
	if got := told(); got != hosttest.Name(9) {
		t.Errorf("libvirt's revert: %q", got)
	}
	h.Revert(web, hosttest.Name(11))
	if got := told(); got != hosttest.Name(11) {
		t.Errorf("libvirt's revert to the newest: %q", got)
	}
	back(t, h, rotator(h, rule(20)), web, hosttest.Name(10), decide.RestoreOptions{})
	if got := told(); got != hosttest.Name(10) {
		t.Errorf("restore: %q", got)
	}
	h.Take(web, []int{20})
	if got := told(); got != "" {
		t.Errorf("after a snapshot: %q", got)
	}
}
