package rotate

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// mergedByHand is a domain with three snapshots whose lowest overlay somebody has merged
// into the base: libvirt has the new chain, and the metadata of before.
func mergedByHand(t *testing.T) (*hosttest.Host, *hosttest.Domain) {
	t.Helper()
	h := hosttest.New(t)
	web := h.Add("web")
	h.Disk(web, "vda", "web.qcow2")
	h.Take(web, []int{9, 10, 11})
	disk := &web.Disks[0]
	above := disk.Chain[2].Path
	disk.Chain = append(disk.Chain[:1:1], disk.Chain[2:]...)
	disk.Inactive = host.Paths(disk.Chain)
	h.Change(above, func(i *hosttest.Image) { i.Backing = disk.Chain[0].Path })
	return h, web
}

func TestAfterAMergeByHandNothingDoubtfulIsHandedOut(t *testing.T) {
	h, _ := mergedByHand(t)
	for n, certain := range map[int]bool{9: false, 10: false, 11: true} {
		w := see(h, t)
		err := decide.Intact(w, w.Domain("web"), hosttest.Name(n))
		var refused *chain.RefusedError
		if (err == nil) != certain || err != nil && !errors.As(err, &refused) {
			t.Errorf("%s: %v", hosttest.Name(n), err)
		}
	}
}

// What doctor says leads out: the lost one is given up, and the other is as it was.
func TestTheWayOutOfAMergeByHandCostsTheLostSnapshotAlone(t *testing.T) {
	h, web := mergedByHand(t)
	remedy := staleRemedy(t, h)
	stored := web.Snapshots[1].Disks[0].State[1]
	if !strings.Contains(remedy, "doctor --forget "+hosttest.Name(9)+" web") || !strings.Contains(remedy, "mv "+stored+" "+stored+".old") {
		t.Errorf("the remedy is %q", remedy)
	}
	hosttest.Must(os.Rename(stored, stored+".old"))
	if remedy = staleRemedy(t, h); !strings.Contains(remedy, "--forget "+hosttest.Name(9)) {
		t.Errorf("the remedy is %q: the lost snapshot comes first", remedy)
	}
	hosttest.Must(rotator(h, rule(5)).Forget(t.Context(), "web", []string{hosttest.Name(9)}))
	w := see(h, t)
	found := decide.Diagnose(w, nil, noPolicies, hosttest.Hour(12))
	hosttest.Must(Fix(t.Context(), h, w, found))
	w = see(h, t)
	for _, n := range []int{10, 11} {
		hosttest.Must(decide.Intact(w, w.Domain("web"), hosttest.Name(n)))
	}
	if p := decide.Decide(w, w.Domain("web"), rule(5), hosttest.Hour(13), decide.Options{}); len(p.Refused) > 0 {
		t.Errorf("refused: %v", p.Refused)
	}
}

func staleRemedy(t *testing.T, h *hosttest.Host) string {
	t.Helper()
	for _, f := range decide.Diagnose(see(h, t), nil, noPolicies, hosttest.Hour(12)) {
		if f.Code == decide.FindStale && !f.Fixable {
			return f.Remedy
		}
	}
	t.Fatal("doctor does not tell of it")
	return ""
}

// libvirt 9.0 rewrites the metadata of the next snapshot as one is deleted; that one may
// be defined again afterwards.
func TestASnapshotDefinedAgainDoesNotStopItsDomain(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	h.Disk(web, "vda", "web.qcow2")
	h.Take(web, []int{9, 10, 11})
	web.Snapshots[2].Disks[0].State = web.Snapshots[2].Disks[0].State[:2]
	w := see(h, t)
	p := decide.Decide(w, w.Domain("web"), rule(5), hosttest.Hour(13), decide.Options{})
	if len(p.Refused) > 0 || len(p.Steps) == 0 || p.Steps[0].Op != decide.OpRedefine {
		t.Errorf("refused %v, steps %v", p.Refused, p.Steps)
	}
}

// A clone that was defined with all layers of the original could not be started once one of
// them has gone: they stay, though nothing builds on them but layers of the chain itself.
func TestALayerThatACloneNamesStays(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	h.Disk(web, "vda", "web.qcow2")
	h.Take(web, []int{9, 10, 11})
	clone := h.Add("clone")
	clone.State = host.ShutOff
	h.Disk(clone, "vda", "web.qcow2", "web."+hosttest.Name(9)+".qcow2", "web."+hosttest.Name(10)+".qcow2", "clone.qcow2")
	r := rotator(h, rule(2))
	r.Options = coalesce()
	runAll(h, t, r)
	for _, l := range clone.Disks[0].Chain {
		if _, err := os.Stat(l.Path); err != nil {
			t.Error(err)
		}
	}
	if len(web.Disks[0].Chain) != 4 || len(web.Snapshots) != 2 {
		t.Errorf("%d layers, %d snapshots", len(web.Disks[0].Chain), len(web.Snapshots))
	}
}
