package rotate

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// held opens an image with QEMU's locks, as a process of somebody else does.
func held(t *testing.T, path string, mode vfs.LockMode) (release func()) {
	t.Helper()
	f, err := vfs.OS().Open(path, mode == vfs.LockWrite)
	hosttest.Must(err)
	hosttest.Must(f.Lock(mode))
	return func() { hosttest.Must(f.Close()) }
}

// A guest that is off here and whose image somebody writes to runs elsewhere: it gets no
// snapshot, loses none, and nothing is merged.
func TestAGuestThatRunsElsewhereIsLeftAlone(t *testing.T) {
	for _, layer := range []string{"web." + hosttest.Name(11), "web." + hosttest.Name(9), "web"} {
		h, web := off(t, 9, 10, 11)
		before, files := snapshotNames(web), filesOf(h, t)
		release := held(t, h.Img(layer+".qcow2"), vfs.LockWrite)
		r := rotator(h, rule(1))
		for _, p := range []decide.Plan{planOf(h, t, r, "web"), runAll(h, t, r)["web"]} {
			if len(p.Steps) > 0 || len(p.Refused) != 1 || p.Refused[0].Code != host.CodeInUse || h.Brief(p.Refused[0].Path) != h.Brief(h.Img(layer+".qcow2")) {
				t.Errorf("%+v", p)
			}
		}
		if !slices.Equal(snapshotNames(web), before) || !slices.Equal(filesOf(h, t), files) {
			t.Errorf("changed: %v %v", snapshotNames(web), filesOf(h, t))
		}
		release()
		if p := runAll(h, t, r)["web"]; p.Result != decide.ResultDone {
			t.Errorf("afterwards: %+v", p)
		}
		checkDone(h, t)
	}
}

// A reader, as an export, puts the merges of what it reads off, and no metadata goes.
func TestMergesWaitForAReader(t *testing.T) {
	for _, layer := range []string{"web", "web." + hosttest.Name(9), "web." + hosttest.Name(10)} {
		h, web := off(t, 9, 10, 11)
		release := held(t, h.Img(layer+".qcow2"), vfs.LockRead)
		r := rotator(h, rule(2))
		r.Options = coalesce()
		for _, p := range []decide.Plan{planOf(h, t, r, "web"), runAll(h, t, r)["web"]} {
			if len(p.Steps)+len(p.Refused) > 0 || !strings.Contains(p.Waiting, "open") {
				t.Errorf("%s: %+v", h.Brief(layer), p)
			}
		}
		if len(web.Snapshots) != 3 {
			t.Errorf("%s: %v", h.Brief(layer), snapshotNames(web))
		}
		release()
		if p := runAll(h, t, r)["web"]; p.Result != decide.ResultDone || len(web.Snapshots) != 2 {
			t.Errorf("%s: afterwards: %+v", h.Brief(layer), p)
		}
		checkDone(h, t)
	}
}

// QEMU does not begin a merge while another host has the image open. The snapshots that
// were to go come back with all that libvirt had on record, and nothing is left over.
func TestAMergeThatDoesNotBeginCostsNoSnapshot(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one(9, 10, 11)(h, web)
	h.Locked = func(host.MergeSpec) bool { return true }
	before, files := h.Find("web").Observed(nil).Snapshots, filesOf(h, t)
	r := rotator(h, rule(2))
	r.Options = coalesce()
	p := runAll(h, t, r)["web"]
	if p.Result != decide.ResultRefused || len(p.Steps) > 0 || len(p.Refused) != 1 || p.Refused[0].Code != host.CodeInUse || !strings.Contains(p.Refused[0].Detail, "write") {
		t.Fatalf("%+v", p)
	}
	after := h.Find("web").Observed(nil).Snapshots
	if !slices.EqualFunc(before, after, sameSnapshot) || !slices.Equal(filesOf(h, t), files) {
		t.Errorf("before %+v, after %+v", before, after)
	}
	checkNoIntent(h, t)
	if w := see(h, t); len(w.Released) > 0 {
		t.Errorf("released: %+v", w.Released)
	}
	checkData(h, t)
	h.Locked = nil
	if p := runAll(h, t, r)["web"]; p.Result != decide.ResultDone {
		t.Errorf("afterwards: %+v", p)
	}
	checkDone(h, t)
}

// reading puts a reader of these layers on record, as virt-rotate mount does.
func reading(h *hosttest.Host, t *testing.T, r *Rotator, layers ...string) (end func()) {
	t.Helper()
	reader := journal.Reader{Command: "mount", PID: 4711, Mount: "/mnt"}
	for _, layer := range layers {
		id, err := vfs.Stat(h.Img(layer + ".qcow2"))
		hosttest.Must(err)
		reader.Images = append(reader.Images, journal.File{Path: h.Img(layer + ".qcow2"), ID: id.ID})
	}
	record, err := journal.BeginReading(r.Observer.StateDir, reader)
	hosttest.Must(err)
	return func() { hosttest.Must(record.End()) }
}

// A reader of ours is known by name, also where the guest runs and its QEMU has all layers
// open: the merges of what it reads are put off, no metadata goes, and the run has not failed.
// Merges of other layers are done.
func TestMergesWaitForAReaderOnRecord(t *testing.T) {
	nine, ten, eleven := "web."+hosttest.Name(9), "web."+hosttest.Name(10), "web."+hosttest.Name(11)
	for _, c := range []struct {
		state host.State
		reads []string
		waits bool
	}{
		{host.Running, []string{"web"}, true},
		{host.Running, []string{"web", nine}, true},
		{host.ShutOff, []string{"web"}, true},
		{host.Running, []string{ten}, false}, // no such reader: it would read what is below, too
		{host.Running, []string{eleven}, false},
	} {
		h, web := off(t, 9, 10, 11)
		web.State, web.Cut = c.state, false
		r := rotator(h, rule(2))
		r.Options = coalesce()
		end := reading(h, t, r, c.reads...)
		for _, p := range []decide.Plan{planOf(h, t, r, "web"), runAll(h, t, r)["web"]} {
			told := strings.Contains(p.Waiting, "is being read by virt-rotate mount at /mnt (pid 4711)")
			if told != c.waits || len(p.Refused) > 0 || p.Result == decide.ResultFailed || c.waits && len(p.Steps) > 0 {
				t.Errorf("%s, %q: %+v", c.state, c.reads, p)
			}
		}
		end()
		if p := runAll(h, t, r)["web"]; p.Result == decide.ResultFailed || len(web.Snapshots) != 2 {
			t.Errorf("afterwards: %+v", p)
		}
		checkDone(h, t)
	}
}

// A reader that comes between the look and the merge keeps QEMU from beginning it; then all is
// as it was, and the merge is put off.
func TestAMergeThatAReaderForestalledIsPutOff(t *testing.T) {
	h, web := off(t, 9, 10, 11)
	web.State, web.Cut = host.Running, false
	r := rotator(h, rule(2))
	r.Options = coalesce()
	var end func()
	h.Locked = func(host.MergeSpec) bool {
		if end == nil {
			end = reading(h, t, r, "web", "web."+hosttest.Name(9))
		}
		return true
	}
	before := h.Find("web").Observed(nil).Snapshots
	p := runAll(h, t, r)["web"]
	if p.Result != decide.ResultNothing || len(p.Steps)+len(p.Refused) > 0 || !strings.Contains(p.Waiting, "is being read by") {
		t.Fatalf("%+v", p)
	}
	if after := h.Find("web").Observed(nil).Snapshots; !slices.EqualFunc(before, after, sameSnapshot) {
		t.Errorf("before %+v, after %+v", before, after)
	}
	checkNoIntent(h, t)
	checkData(h, t)
	end()
	h.Locked = nil
	if p := runAll(h, t, r)["web"]; p.Result != decide.ResultDone {
		t.Errorf("afterwards: %+v", p)
	}
	checkDone(h, t)
}

// A record that nobody holds was left by a reader that died: nothing waits for it.
func TestAReaderThatDiedIsNotWaitedFor(t *testing.T) {
	h, _ := off(t, 9, 10, 11)
	r := rotator(h, rule(2))
	r.Options = coalesce()
	end := reading(h, t, r, "web")
	left, err := filepath.Glob(filepath.Join(r.Observer.StateDir, "readers/*.json"))
	hosttest.Must(err)
	text, err := os.ReadFile(left[0])
	hosttest.Must(err)
	end()
	hosttest.Must(os.WriteFile(left[0], text, 0o600))
	if p := runAll(h, t, r)["web"]; p.Result != decide.ResultDone {
		t.Errorf("%+v", p)
	}
	tidied := 0
	for range 2 {
		hosttest.Must(journal.ForgetReaders(r.Observer.StateDir, func(died *journal.Reader) error {
			if died.Mount != "/mnt" {
				t.Errorf("%+v", died)
			}
			tidied++
			return nil
		}))
	}
	if tidied != 1 {
		t.Errorf("tidied up %d times", tidied)
	}
}

func sameSnapshot(a, b host.Snapshot) bool {
	return a.Name == b.Name && a.Parent == b.Parent && a.Current == b.Current && slices.EqualFunc(a.Disks, b.Disks, func(x, y host.SnapshotDisk) bool {
		return x.Target == y.Target && x.Overlay == y.Overlay && slices.Equal(x.State, y.State) && slices.Equal(x.Inactive, y.Inactive)
	})
}

// On a share that is mounted without locks nothing is merged, and no metadata goes.
func TestNothingIsMergedWhereLocksStayLocal(t *testing.T) {
	for _, state := range []host.State{host.Running, host.ShutOff} {
		h, web := off(t, 9, 10, 11)
		web.State, web.Cut = state, false
		r := rotator(h, rule(2))
		r.Options = coalesce()
		r.Observer.Probes.LocksStayLocal = func(dir string) (string, error) { return dir + " is mounted with nolock (nfs)", nil }
		for _, p := range []decide.Plan{planOf(h, t, r, "web"), runAll(h, t, r)["web"]} {
			if len(p.Steps) > 0 || len(p.Refused) != 1 || p.Refused[0].Code != host.CodeLocalLocks || !strings.Contains(p.Refused[0].Detail, "nolock") {
				t.Errorf("%+v", p)
			}
		}
		if len(web.Snapshots) != 3 {
			t.Errorf("%v", snapshotNames(web))
		}
		checkData(h, t)
	}
}

// Once a merge has moved data the metadata does not come back: the second disk's merge
// that does not begin is a failure, which the next run mends.
func TestAMergeThatDoesNotBeginAfterOneThatDidIsAFailure(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	h.Disk(web, "vda", "web.qcow2")
	h.Disk(web, "vdb", "data.qcow2")
	h.Take(web, []int{9, 10, 11})
	h.Locked = func(m host.MergeSpec) bool { return m.Disk == "vdb" }
	r := rotator(h, rule(2))
	r.Options = coalesce()
	if p := runAll(h, t, r)["web"]; p.Result != decide.ResultFailed || web.Snapshot(hosttest.Name(9)) != nil {
		t.Fatalf("%+v", p)
	}
	checkData(h, t)
	h.Locked = nil
	finishes(h, t, rule(2), coalesce())
	checkDone(h, t)
}

// A guest that is off and has checkpoints waits with a reason; it is no failure.
func TestAGuestWithCheckpointsThatIsOffWaits(t *testing.T) {
	h, web := off(t, 9, 10)
	web.Checkpoints = 1
	h.Write(web, "vda", 1)
	r := rotator(h, rule(7))
	for _, p := range []decide.Plan{planOf(h, t, r, "web"), runAll(h, t, r)["web"]} {
		if len(p.Steps)+len(p.Refused) > 0 || !strings.Contains(p.Waiting, "1 checkpoint") {
			t.Errorf("%+v", p)
		}
	}
	web.State, web.Cut = host.Running, false
	if p := runAll(h, t, r)["web"]; p.Result != decide.ResultDone {
		t.Errorf("once it runs: %+v", p)
	}
}

// libvirt changes no metadata of its snapshots either: what retention drops, a detach and stale metadata wait for its start.
func TestMergesOfAGuestWithCheckpointsThatIsOffWait(t *testing.T) {
	for name, build := range map[string]func(web *hosttest.Domain, r *policy.Rule){
		"retention":      func(_ *hosttest.Domain, r *policy.Rule) { r.Keep.Last = 1 },
		"stale metadata": func(web *hosttest.Domain, _ *policy.Rule) { d := &web.Snapshots[2].Disks[0]; d.State = d.State[1:] },
	} {
		t.Run(name, func(t *testing.T) {
			h, web := off(t, 9, 10, 11)
			web.Checkpoints = 2
			h.Write(web, "vda", 1)
			rl := rule(7)
			build(web, rl)
			r := rotator(h, rl)
			for _, p := range []decide.Plan{planOf(h, t, r, "web"), runAll(h, t, r)["web"]} {
				if len(p.Steps)+len(p.Refused) > 0 || p.Result != decide.ResultNothing || !p.MergesWait || !strings.Contains(p.Waiting, "2 checkpoints") {
					t.Errorf("%+v", p)
				}
			}
			web.State, web.Cut = host.Running, false
			if p := runAll(h, t, r)["web"]; p.Result != decide.ResultDone {
				t.Errorf("once it runs: %+v", p)
			}
			checkData(h, t)
		})
	}
}

func TestACommaInANameIsRefusedWhileTheGuestIsOff(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	h.Disk(web, "vda", "a,b.qcow2")
	web.State = host.ShutOff
	r := rotator(h, rule(7))
	if p := planOf(h, t, r, "web"); len(p.Steps) > 0 || len(p.Refused) != 1 || p.Refused[0].Code != host.CodeComma {
		t.Errorf("%+v", p)
	}
	web.State = host.Running
	if p := planOf(h, t, r, "web"); len(p.Refused) > 0 || len(p.Steps) != 1 {
		t.Errorf("%+v", p)
	}
}

// A disk that only the running guest has is left out, told, and the others are rotated.
func TestADiskThatOnlyTheRunningGuestHasIsLeftOut(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	h.Disk(web, "vda", "web.qcow2")
	h.Take(web, []int{9, 10, 11})
	h.Disk(web, "sdc", "stick.qcow2")
	web.Disks[1].Inactive = nil
	r := rotator(h, rule(2))
	for range 3 {
		h.Now = h.Now.Add(2 * hosttest.Hour(1).Sub(hosttest.Hour(0)))
		p := runAll(h, t, r)["web"]
		if p.Result != decide.ResultPartly || len(p.Refused) != 1 || p.Refused[0].Code != host.CodeLiveOnly || p.Refused[0].Path != "sdc" {
			t.Fatalf("%+v", p)
		}
		checkData(h, t)
	}
	if n, m := len(web.Disks[0].Chain), len(web.Disks[1].Chain); n != 3 || m != 1 {
		t.Errorf("%d and %d layers", n, m)
	}
}

// The layers of a disk that was taken out go with the snapshots that have them; its last
// layer stays, which no snapshot ever had, and doctor is content.
func TestTheLayersOfADiskThatWasTakenOutGo(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	h.Disk(web, "vda", "web.qcow2")
	h.Disk(web, "vdb", "data.qcow2")
	h.Take(web, []int{7, 8, 9})
	data := web.Want["vdb"]
	last := web.Disks[1].Active().Path
	web.Disks = web.Disks[:1]
	r := rotator(h, rule(2))
	for n := range 5 {
		h.Now = hosttest.Hour(12 + n)
		if p := runAll(h, t, r)["web"]; p.Result != decide.ResultDone {
			t.Fatalf("%+v", p)
		}
		checkData(h, t)
		h.Write(web, "vda", n)
	}
	reads(h, t, "the disk that was taken out", last, data)
	files := h.Short(filesOf(h, t))
	if want := 5; len(files) != want {
		t.Errorf("files: %v", files)
	}
	found := decide.Diagnose(see(h, t), nil, noPolicies, hosttest.Hour(17))
	if len(found) != 1 || found[0].Code != decide.FindTip || !found[0].Note || found[0].Path != last {
		t.Errorf("%+v", found)
	}
}

// A disk that has got another target is the same disk: nothing of it is left unlisted.
func TestADiskWithAnotherTargetIsTheSameDisk(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	h.Disk(web, "vda", "web.qcow2")
	h.Disk(web, "vdc", "data.qcow2")
	h.Take(web, []int{7, 8, 9})
	web.Disks[1].Target = "sdc"
	web.Want["sdc"] = web.Want["vdc"]
	delete(web.Want, "vdc")
	r := rotator(h, rule(2))
	for n := range 4 {
		h.Now = hosttest.Hour(12 + n)
		if p := runAll(h, t, r)["web"]; p.Result != decide.ResultDone {
			t.Fatalf("%+v", p)
		}
		checkData(h, t)
	}
	checkDone(h, t)
	if n := len(web.Disks[1].Chain); n != 3 {
		t.Errorf("%d layers", n)
	}
}

// Metadata that libvirt 9.0 has rewritten when somebody deleted the snapshot before it is
// mended from the chain; the layer without a snapshot stays until it is given up.
func TestMetadataThatLibvirtRewroteIsMended(t *testing.T) {
	for _, gone := range [][]int{{0}, {1}, {0, 1}} {
		h := hosttest.New(t)
		web := h.Add("web")
		one(8, 9, 10, 11)(h, web)
		var names []string
		for _, i := range gone {
			names = append(names, web.Snapshots[i].Name)
		}
		for _, n := range names {
			hosttest.Must(h.DropMetadata(context.Background(), "web", n))
		}
		r := rotator(h, rule(7))
		p := runAll(h, t, r)["web"]
		if p.Result != decide.ResultDone || len(p.Refused) > 0 {
			t.Fatalf("%v: %+v", gone, p)
		}
		checkData(h, t)
		hosttest.Must(r.Forget(t.Context(), "web", names))
		runAll(h, t, r)
		checkDone(h, t)
		if n, want := len(web.Disks[0].Chain), 6-len(gone); n != want {
			t.Errorf("%v: %d layers, want %d", gone, n, want)
		}
	}
}

// The engine moves all data before it relinks the layer above. If that is in use by then,
// the state of the snapshot that goes is destroyed already: its metadata stays away.
func TestALockThatIsMissedAfterDataWasMovedBringsNoSnapshotBack(t *testing.T) {
	h, web := off(t, 9, 10, 11)
	moved := false
	h.Event = func(what string) error {
		moved = moved || what == "block of merge"
		if what == "call relink" {
			return &vfs.BusyError{Path: h.Img("web." + hosttest.Name(10) + ".qcow2"), Mode: vfs.LockWrite}
		}
		return nil
	}
	r := rotator(h, rule(2))
	r.Options = coalesce()
	if p := runAll(h, t, r)["web"]; p.Result != decide.ResultFailed || !moved || web.Snapshot(hosttest.Name(9)) != nil {
		t.Fatalf("%+v, moved %v, snapshots %v", p, moved, snapshotNames(web))
	}
	h.Event = func(string) error { return nil }
	finishes(h, t, rule(2), coalesce())
	checkDone(h, t)
}
