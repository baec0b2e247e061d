package rotate

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
)

func graftsOnly(r *policy.Rule) { r.Method = policy.MethodGraft }

// diedReady is a run that dies when the guest can be moved; then its copy is gone, too.
func diedReady(t *testing.T) (*simHost, *simDomain, *Rotator) {
	t.Helper()
	h := newSim(t)
	h.cannotClone = nil
	web := h.add("web")
	one(9, 10, 11)(h, web)
	r := h.rotator(with(rule(2), graftsOnly))
	r.Options = coalesce()
	if !dieAt(h, r, "ready to move") {
		t.Fatal("no graft")
	}
	clear(h.jobs)
	return h, web, r
}

// Whether a guest was moved is not known before QEMU tells that it was not, or that it
// has been started from its former images since.
func TestAGuestThatIsNotOnItsNewImagesIsGraftedAgain(t *testing.T) {
	h, web, r := diedReady(t)
	files := h.files(t)
	for _, state := range []State{Running, ShutOff} {
		web.State = state
		p := h.runAll(t, r)["web"]
		if len(p.Refused) != 1 || p.Refused[0].Code != CodeStopped || !strings.Contains(p.Refused[0].Detail, "docs/recovery.md") {
			t.Errorf("%s: %+v", state, p)
		}
		if now := h.files(t); !slices.Equal(now, files) {
			t.Errorf("%s: files are %q, were %q", state, now, files)
		}
	}
	web.State = Running
	h.qemu = map[string][]string{web.Disks[0].Target: paths(web.Disks[0].Chain)}
	h.finishes(t, with(rule(2), graftsOnly), r.Options)
	h.checkDone(t)
}

// A file system without room for a trial is not one that cannot share extents.
func TestNoRoomForATrialCloneIsToldAsNoSpace(t *testing.T) {
	h := newSim(t)
	h.cannotClone = fmt.Errorf("a trial: %w", &os.PathError{Op: "open", Path: "dir", Err: syscall.ENOSPC})
	one(9, 10, 11)(h, h.add("web"))
	h.space = func(string) (vfs.Space, error) { return vfs.Space{FS: 1, Total: 100 << 30}, nil }
	r := h.rotator(with(rule(2), graftsOnly))
	r.Options = coalesce()
	if p := h.plan(t, r, "web"); len(p.Refused) != 1 || p.Refused[0].Code != CodeNoSpace {
		t.Errorf("%+v", p)
	}
}

// plan tells of a graft also where a snapshot comes first, which is there only when
// the graft is decided anew.
func TestAGraftIsPlannedTogetherWithASnapshot(t *testing.T) {
	h := newSim(t)
	h.cannotClone = nil
	one(9, 10, 11)(h, h.add("web"))
	r := h.rotator(with(rule(2), graftsOnly))
	planned, ran := h.plan(t, r, "web").Steps, h.runAll(t, r)["web"].Steps
	brief := func(steps []Step) (all []string) {
		for _, s := range steps {
			all = append(all, s.String())
		}
		return all
	}
	if !slices.Equal(brief(planned), brief(ran)) || !slices.ContainsFunc(ran, func(s Step) bool { return s.Method == "graft" }) {
		t.Errorf("planned\n%s\ndone\n%s", strings.Join(brief(planned), "\n"), strings.Join(brief(ran), "\n"))
	}
}
