package rotate

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// missed lets libvirt miss the end of a merge of ours: the images are merged,
// the XML has the old chain.
func missed(t *testing.T) (*hosttest.Host, *hosttest.Domain, *Rotator) {
	t.Helper()
	h := hosttest.New(t)
	web := h.Add("web")
	one(9, 10, 11)(h, web)
	old := slices.Clone(web.Disks[0].Chain)
	r := rotator(h, rule(2))
	r.Options = coalesce()
	if !dieAt(h, r, "block of merge") {
		t.Fatal("no merge")
	}
	h.AfterCrash(hosttest.JobsFinish)
	web.Disks[0].Chain, web.Disks[0].Inactive = old, host.Paths(old)
	return h, web, r
}

func TestAMergeWhoseEndLibvirtMissedIsDoneAgain(t *testing.T) {
	h, web, r := missed(t)
	web.State = host.ShutOff
	skip := rotator(h, with(rule(2), func(r *policy.Rule) { r.Offline = policy.OfflineSkip }))
	skip.Options = r.Options
	if p := runAll(h, t, skip)["web"]; slices.ContainsFunc(p.Steps, func(s decide.Step) bool { return s.Op != decide.OpRedefine }) || len(p.Refused) > 0 {
		t.Errorf("while the guest is off: %+v", p)
	}
	if left := filesOf(h, t); !slices.ContainsFunc(left, func(f string) bool { return strings.Contains(f, hosttest.Name(9)) }) {
		t.Fatalf("the merged layer is gone: %q", left)
	}
	web.State = host.Running // it starts from the XML, through the merged layer
	hold(t, h.Img("web."+hosttest.Name(9)+".qcow2"))
	p := planOf(h, t, r, "web")
	i := slices.IndexFunc(p.Steps, func(s decide.Step) bool { return s.Op == decide.OpMerge })
	if i < 0 || p.Steps[i].Top != h.Img("web."+hosttest.Name(9)+".qcow2") {
		t.Errorf("no second merge: %+v", p)
	}
}

func TestAGuestOnAChainThatLibvirtMissedWaitsForItsRestart(t *testing.T) {
	h, web, r := missed(t)
	p := runAll(h, t, r)["web"] // nobody has the merged layer open here
	if len(p.Refused) != 1 || p.Refused[0].Code != host.CodeRestart || len(p.Steps) > 0 {
		t.Fatalf("%+v", p)
	}
	if !slices.Equal(web.Disks[0].Inactive, host.Paths(web.Disks[0].Chain)) {
		t.Error("the configuration was changed")
	}
}

// The intent of a merge that was cut off is all that explains the chain, and a
// snapshot would have one of its own: the merge comes first, or there is no snapshot.
func TestAMergeThatWasCutOffIsDoneAgainBeforeASnapshot(t *testing.T) {
	for _, open := range []bool{true, false} {
		h, web, r := missed(t)
		web.State = host.ShutOff
		h.Write(web, "vda", 3)
		shut := h.Img("strange.qcow2")
		if !open { // nothing may be merged beside an image that cannot be read
			hosttest.Must(os.WriteFile(shut, []byte("broken"), 0o600))
		}
		r.Options = decide.Options{IgnoreEvery: true}
		p := runAll(h, t, r)["web"]
		checkData(h, t)
		left, err := journal.In(r.Observer.StateDir).Load()
		hosttest.Must(err)
		if taken := slices.ContainsFunc(p.Steps, func(s decide.Step) bool { return s.Op == decide.OpSnapshot }); taken != open || p.Result == decide.ResultFailed || open != (left[web.UUID] == nil) {
			t.Errorf("merges can be done: %v: %+v, intents %+v", open, p, left)
		}
		_ = os.Remove(shut)
		runAll(h, t, r)
		checkDone(h, t)
	}
}
