package rotate

import (
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// pivotedBelow is a domain on a cloud image with three snapshots, of which somebody has
// merged everything into that image, as virsh blockcommit --active --pivot does.
func pivotedBelow(t *testing.T) (*hosttest.Host, *hosttest.Domain) {
	h := hosttest.New(t)
	web := h.Add("web")
	h.Disk(web, "vda", "cloud.qcow2", "web.qcow2")
	h.Take(web, []int{9, 10, 11})
	pivotTo(h, web, 0)
	return h, web
}

// pivotTo merges all layers above layer k of vda into that, which the guest writes to then.
func pivotTo(h *hosttest.Host, d *hosttest.Domain, k int) {
	disk := &d.Disks[0]
	into := disk.Chain[k].Path
	for _, l := range disk.Chain[k+1:] {
		blocks := h.Load(l.Path).Blocks
		hosttest.Must(os.Chtimes(l.Path, time.Time{}, time.Now().Add(-time.Minute)))
		h.Change(into, func(i *hosttest.Image) { maps.Copy(i.Blocks, blocks) })
	}
	disk.Chain = disk.Chain[:k+1]
	disk.Inactive = host.Paths(disk.Chain)
	h.Write(d, "vda", 7)
}

// lostNames lists the snapshots that are lost, once each.
func lostNames(w *observe.World, d *host.Domain) []string {
	var names []string
	for _, x := range w.Destroyed(d) {
		names = append(names, x.Snapshot)
	}
	return slices.Compact(names)
}

func TestStatesOnAnImageThatAGuestWritesToAreLost(t *testing.T) {
	for _, live := range []bool{true, false} {
		h, web := pivotedBelow(t)
		if !live {
			web.State = host.ShutOff
		}
		before := filesOf(h, t)
		r := rotator(h, rule(3))
		for range 2 {
			p := runAll(h, t, r)["web"]
			if p.Result != decide.ResultRefused || p.Refused[0].Code != host.CodeDestroyed || len(p.Steps) > 0 {
				t.Fatalf("%+v", p)
			}
			for _, name := range snapshotNames(web) {
				if !strings.Contains(p.Refused[0].Detail, "--forget "+name) {
					t.Errorf("%s is not told: %s", name, p.Refused[0].Detail)
				}
			}
		}
		w := see(h, t)
		if got := lostNames(w, w.Domain("web")); !slices.Equal(got, snapshotNames(web)) {
			t.Errorf("lost: %v", got)
		}
		var lost *decide.DestroyedError
		if err := decide.Intact(w, w.Domain("web"), hosttest.Name(10)); !errors.As(err, &lost) || lost.Since.IsZero() || time.Since(lost.Since) > time.Hour {
			t.Errorf("%v", err)
		}
		web.State = host.ShutOff
		if p, err := r.Restore(t.Context(), "web", hosttest.Name(9), decide.RestoreOptions{}); err != nil || p.Result != decide.ResultRefused {
			t.Errorf("restore: %+v %v", p, err)
		}
		s := Status(w, w.Domain("web"), rule(3), nil, hosttest.Hour(12))
		if !s.Snapshots[0].Lost || len(s.Refused) != 1 {
			t.Errorf("%+v", s)
		}
		if after := filesOf(h, t); !slices.Equal(after, before) {
			t.Errorf("files %v, before %v", after, before)
		}
	}
}

// Only what builds on the image is lost.
func TestStatesBelowTheImageAreSound(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	h.Disk(web, "vda", "cloud.qcow2", "web.qcow2")
	h.Take(web, []int{9, 10, 11})
	pivotTo(h, web, 2) // the overlay of S9: the state of S9 is below, that of S10 in it
	w := see(h, t)
	if got := lostNames(w, w.Domain("web")); !slices.Equal(got, []string{hosttest.Name(10), hosttest.Name(11)}) {
		t.Errorf("lost: %v", got)
	}
	if err := decide.Intact(w, w.Domain("web"), hosttest.Name(9)); err != nil {
		t.Error(err)
	}
}

// A guest that is off, and whose image is older than what builds on it, has not run on it.
func TestAnImageThatWasPutInByHandIsNotTakenForWritten(t *testing.T) {
	h, web := pivotedBelow(t)
	web.State = host.ShutOff
	hosttest.Must(os.Chtimes(h.Img("cloud.qcow2"), time.Time{}, time.Now().Add(-time.Hour)))
	p := planOf(h, t, rotator(h, rule(3)), "web")
	if len(p.Refused) != 1 || p.Refused[0].Code != host.CodeDestroyed || !strings.Contains(p.Refused[0].Detail, "put the newest layer back") {
		t.Errorf("%+v", p.Refused)
	}
}

// The template of linked clones is started: what its clones have is lost, and stays so when
// it has stopped, until that is given up. A template that is off harms nobody.
func TestARunningTemplateDestroysItsClones(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	h.Disk(web, "vda", "golden.qcow2", "web.qcow2")
	h.Take(web, []int{9, 10})
	template := h.Add("other-template")
	h.Disk(template, "vda", "golden.qcow2")
	template.State = host.ShutOff
	r := rotator(h, rule(7))
	if p := runAll(h, t, r)["web"]; p.Result != decide.ResultDone {
		t.Fatalf("a template that is off: %+v", p)
	}
	checkData(h, t)
	template.State = host.Running
	if p := runAll(h, t, r)["web"]; p.Result != decide.ResultRefused || p.Refused[0].Code != host.CodeDestroyed {
		t.Fatalf("%+v", p)
	}
	template.State = host.ShutOff
	h.Now = hosttest.Hour(18)
	p := runAll(h, t, r)["web"]
	if p.Result != decide.ResultRefused || !strings.Contains(p.Refused[0].Detail, "is lost since about") {
		t.Fatalf("after it has stopped: %+v", p)
	}
	hosttest.Must(r.Forget(t.Context(), "web", snapshotNames(web)))
	if p := runAll(h, t, r)["web"]; p.Result != decide.ResultDone || len(web.Snapshots) != 1 {
		t.Errorf("after they were given up: %+v, %v", p, snapshotNames(web))
	}
}

// A clone without snapshots on a template that runs gets none.
func TestNoSnapshotOnABaseThatIsWrittenTo(t *testing.T) {
	h := hosttest.New(t)
	h.Disk(h.Add("web"), "vda", "golden.qcow2", "web.qcow2")
	h.Disk(h.Add("other-template"), "vda", "golden.qcow2")
	p := planOf(h, t, rotator(h, rule(7)), "web")
	if len(p.Steps) > 0 || len(p.Refused) != 1 || p.Refused[0].Code != host.CodeDestroyed || !strings.Contains(p.Refused[0].Detail, "other-template") {
		t.Errorf("%+v", p)
	}
}

// Once lost snapshots are given up, rotation goes on, merges go on, and of the files only
// the image that virt-rotate did not make is left.
func TestRotationGoesOnAfterForget(t *testing.T) {
	h, web := pivotedBelow(t)
	r := rotator(h, rule(2))
	runAll(h, t, r)
	hosttest.Must(r.Forget(t.Context(), "web", snapshotNames(web)))
	if len(web.Snapshots) > 0 {
		t.Fatalf("left: %v", snapshotNames(web))
	}
	for n := 13; n < 18; n++ {
		h.Now = hosttest.Hour(n)
		if p := runAll(h, t, r)["web"]; p.Result != decide.ResultDone {
			t.Fatalf("%+v", p)
		}
		h.Write(web, "vda", n%4)
		checkData(h, t)
	}
	if n := len(web.Disks[0].Chain); n != 3 {
		t.Errorf("%d layers: %v", n, h.Short(host.Paths(web.Disks[0].Chain)))
	}
	if files := h.Short(filesOf(h, t)); !slices.Equal(files, []string{"cloud", "web.S16", "web.S17", "web"}) && len(files) != 4 {
		t.Errorf("files: %v", files)
	}
	found := decide.Diagnose(see(h, t), nil, noPolicies, hosttest.Hour(17))
	if len(found) != 1 || found[0].Code != decide.FindUseless || !found[0].Note || h.Brief(found[0].Path) != "web" {
		t.Errorf("%+v", found)
	}
}

func TestOnlyWhatIsUnsoundIsForgotten(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one(9, 10, 11)(h, web)
	r := rotator(h, rule(7))
	var refused *chain.RefusedError
	if err := r.Forget(t.Context(), "web", []string{hosttest.Name(9)}); !errors.As(err, &refused) {
		t.Errorf("a sound one: %v", err)
	}
	if err := r.Forget(t.Context(), "web", []string{"nonsense"}); !errors.Is(err, observe.ErrNoSuchSnapshot) {
		t.Errorf("one that never was: %v", err)
	}
	if err := r.Forget(t.Context(), "nonsense", []string{hosttest.Name(9)}); !errors.Is(err, observe.ErrNoSuchDomain) {
		t.Errorf("of no domain: %v", err)
	}
	hosttest.Must(journal.In(r.Observer.StateDir).Write(journal.Intent{Domain: "web", UUID: web.UUID}))
	if err := r.Forget(t.Context(), "web", []string{hosttest.Name(9)}); !errors.As(err, &refused) || !strings.Contains(err.Error(), "virt-rotate run web") {
		t.Errorf("after an interruption: %v", err)
	}
	if len(web.Snapshots) != 3 {
		t.Errorf("left: %v", snapshotNames(web))
	}
	checkData(h, t)
}

// A snapshot whose metadata is lost keeps its layer until it is given up: then the next run
// merges it, and all other states are as they were.
func TestAnUnlistedSnapshotThatIsForgottenIsMerged(t *testing.T) {
	for _, gone := range []int{0, 1, 2} {
		h := hosttest.New(t)
		web := h.Add("web")
		one(9, 10, 11)(h, web)
		which := web.Snapshots[gone].Name
		web.Snapshots = slices.Delete(web.Snapshots, gone, gone+1)
		r := rotator(h, rule(7))
		r.Options = coalesce()
		runAll(h, t, r)
		if n := len(web.Disks[0].Chain); n != 4 {
			t.Fatalf("%d layers before it is given up", n)
		}
		hosttest.Must(r.Forget(t.Context(), "web", []string{which}))
		if p := runAll(h, t, r)["web"]; p.Error != "" || len(p.Refused) > 0 {
			t.Errorf("%+v", p)
		}
		if n := len(web.Disks[0].Chain); n != 3 {
			t.Errorf("%d layers after that", n)
		}
		checkData(h, t)
	}
}
