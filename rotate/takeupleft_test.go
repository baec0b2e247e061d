package rotate

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// left is a pair whose first host has run, and is gone; the second one has the guest, without its snapshots.
func left(t *testing.T, hours ...int) *pair {
	p, web := newPair(t, hours...)
	web.State = host.ShutOff
	p.run(t, 0)
	p.fails(t)
	p.boots()
	return p
}

func (p *pair) record(kind string) string {
	return filepath.Join(p.h[0].Dir, "img/.virt-rotate", kind, "uuid-of-web.json")
}

func (p *pair) snapshots(i int) (all []string) {
	for _, s := range p.h[i].Find("web").Snapshots {
		all = append(all, p.h[i].Brief(s.Name))
	}
	return all
}

func TestAGuestThatIsTakenOverHasItsSnapshots(t *testing.T) {
	p := left(t, 9, 10)
	plan, err := p.r[1].TakeOver(context.Background(), "web", "", false)
	hosttest.Must(err)
	if plan.Result != decide.ResultDone || len(plan.Steps) != 3 || plan.Steps[1].Op != decide.OpRedefine || !strings.Contains(plan.Steps[1].Reason, "host1") {
		t.Errorf("%+v", plan)
	}
	if have := p.snapshots(1); !slices.Equal(have, []string{"S9", "S10"}) {
		t.Errorf("%v", have)
	}
	p.boots()
	p.worksOn(t, 1)
	if plan, err = p.r[1].TakeOver(context.Background(), "web", "", false); err != nil || len(plan.Steps) > 0 {
		t.Errorf("again: %+v %v", plan, err)
	}
}

// What was released on the first host is merged on the second.
func TestLayersThatAreOnRecordAsFreeAreMergedOnTheNextHost(t *testing.T) {
	p, web := newPair(t, 9, 10, 11)
	web.State = host.ShutOff
	p.r[0].Mover = p.h[0]
	at := ""
	die(p.h[0], p.r[0], func(place string) bool { at = place; return place == "merge starts" })
	if at != "merge starts" {
		t.Fatal("no such place")
	}
	p.fails(t)
	p.boots()
	tookOverAll(t, p)
	p.worksOn(t, 1)
	if chain := p.h[1].Find("web").Disks[0].Chain; len(chain) != 3 || !slices.Equal(p.snapshots(1), []string{"S10", "S11"}) {
		t.Errorf("%v, %v", p.h[0].Short(host.Paths(chain)), p.snapshots(1))
	}
}

func tookOverAll(t *testing.T, p *pair) {
	t.Helper()
	plan, err := p.r[1].TakeOver(context.Background(), "web", "host1", false)
	if err != nil || plan.Result != decide.ResultDone {
		t.Fatalf("%+v %v", plan, err)
	}
}

// A host that gets a guest back goes by what the other one has left, and not by what it remembers of long ago.
func TestAHostThatGetsAGuestBackForgetsWhatItHadBegun(t *testing.T) {
	p := left(t, 9, 10)
	state := filepath.Join(p.h[0].Dir, "state")
	keeps := p.h[1].Find("web").Disks[0].Chain[1]
	hosttest.Must(journal.In(state).Write(journal.Intent{Domain: "web", UUID: "uuid-of-web", Started: p.h[0].Now,
		Garbage: []journal.File{{Path: keeps.Path, ID: keeps.ID}}}))
	hosttest.Must(journal.SaveReleased(state, &p.h[1].Find("web").Domain, []journal.File{{Path: keeps.Path, ID: keeps.ID}}))
	tookOverAll(t, p)
	p.worksOn(t, 1)
	web := p.h[1].Find("web")
	p.h[0].Guests = []*hosttest.Domain{{Domain: web.Observed(nil), Want: web.Want, States: web.States, Deleted: map[string]bool{}}}
	p.h[1].Guests = nil
	p.boots()
	tookOver(t, p, 0, "")
	if _, err := journal.In(state).Read("uuid-of-web"); err == nil {
		t.Error("what was begun long ago is still on record")
	}
	if free := journal.LoadReleased(state, "uuid-of-web"); len(free) > 0 {
		t.Errorf("%v is still on record as free", free)
	}
	p.worksOn(t, 0)
}

// What stands on the storage is another's word: what cannot be meant is not done, and keeps the guest from being changed
// until a person has looked.
func TestWhatCannotBeTakenUpKeepsTheGuestAsItIs(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "precious")
	hosttest.Must(os.WriteFile(outside, []byte("precious"), 0o600))
	intent := func(path string) string {
		return fmt.Sprintf(`{"version":1,"uuid":"uuid-of-web","by":"x","host":"host1","names":[],"intent":{"version":1,"uuid":"uuid-of-web","garbage":[{"path":%q,"id":{"dev":0,"ino":0}}]}}`, path)
	}
	for name, c := range map[string]struct{ kind, text string }{
		"no JSON":                  {"guests", "{"},
		"another guest's":          {"guests", `{"version":1,"uuid":"uuid-of-db","by":"x"}`},
		"of another version":       {"guests", `{"version":9,"uuid":"uuid-of-web","by":"x"}`},
		"a file of this host's":    {"guests", intent(outside)},
		"a relative file":          {"guests", intent("web.qcow2")},
		"a way out":                {"guests", intent("/x/../etc/passwd")},
		"no JSON of snapshots":     {"snapshots", "]"},
		"snapshots of another one": {"snapshots", `{"version":1,"uuid":"uuid-of-db"}`},
		"a hostile name":           {"snapshots", `{"version":1,"uuid":"uuid-of-web","snapshots":[{"name":"../a","xml":"b"}]}`},
		"no metadata":              {"snapshots", `{"version":1,"uuid":"uuid-of-web","snapshots":[{"name":"a","xml":"b"}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			p := left(t, 9, 10)
			hosttest.Must(os.WriteFile(p.record(c.kind), []byte(c.text), 0o600))
			before := everything(p.h[1], t)
			plan, err := p.r[1].TakeOver(context.Background(), "web", "", false)
			if err != nil || plan.Result != decide.ResultFailed || !strings.Contains(plan.Error, p.record("guests")) && !strings.Contains(plan.Error, p.record(c.kind)) {
				t.Errorf("%+v %v", plan, err)
			}
			p.boots()
			ran := p.run(t, 1)["web"]
			if ran.Result != decide.ResultFailed || len(ran.Steps) > 0 || !strings.Contains(ran.Error, "remove that file") {
				t.Errorf("%+v", ran)
			}
			if everything(p.h[1], t) != before {
				t.Error("something was changed")
			}
			if text, err := os.ReadFile(outside); err != nil || string(text) != "precious" {
				t.Errorf("%q %v", text, err)
			}
			hosttest.Must(os.Remove(p.record("guests")))
			p.boots()
			p.worksOn(t, 1)
		})
	}
}

// Where the record cannot be written snapshots go on, and nothing is merged.
func TestWithoutARecordForOtherHostsNothingIsMerged(t *testing.T) {
	p, _ := newPair(t, 9, 10, 11)
	p.r[0].Options = decide.Options{}
	dir := filepath.Dir(p.record("snapshots"))
	hosttest.Must(os.MkdirAll(filepath.Dir(dir), 0o700))
	hosttest.Must(os.WriteFile(dir, nil, 0o600))
	ran := p.run(t, 0)["web"]
	if ran.Result != decide.ResultPartly || !strings.Contains(fmt.Sprint(ran.Refused), dir) || merges(ran) > 0 || len(ran.Steps) != 1 || ran.Steps[0].Op != decide.OpSnapshot {
		t.Errorf("%+v", ran)
	}
	if have := p.snapshots(0); !slices.Equal(have, []string{"S9", "S10", "S11", "S12"}) {
		t.Errorf("%v", have)
	}
	p.check(t)
	hosttest.Must(os.Remove(dir))
	p.boots()
	p.worksOn(t, 0)
	if have := p.snapshots(0); !slices.Equal(have, []string{"S11", "S12"}) {
		t.Errorf("%v", have)
	}
}

// A guest comes back to a host whose libvirt has its snapshots of former times: one was deleted, and another is another one now.
func TestOldMetadataOfAGuestThatComesBackIsNotBelieved(t *testing.T) {
	p, web := newPair(t, 9, 10)
	web.State = host.ShutOff
	p.run(t, 0)
	old := web.Observed(nil).Snapshots
	p.fails(t)
	p.boots()
	tookOverAll(t, p)
	p.boots()
	p.r[1].Match = rotator(p.h[1], rule(1)).Match
	p.worksOn(t, 1) // drops S9
	p.h[1].Write(p.h[1].Find("web"), "vda", 3)
	there := p.h[1].Find("web")
	back := &hosttest.Domain{Domain: there.Observed(nil), Want: there.Want, States: there.States, Deleted: map[string]bool{}}
	back.Snapshots = old
	p.h[0].Guests, p.h[1].Guests = []*hosttest.Domain{back}, nil
	p.boots()
	before := everything(p.h[0], t)
	plan, err := p.r[0].TakeOver(context.Background(), "web", "", false)
	if err != nil || plan.Result != decide.ResultFailed || !strings.Contains(plan.Error, "virsh snapshot-delete --metadata web") || !strings.Contains(plan.Error, hosttest.Name(9)) {
		t.Errorf("%+v %v", plan, err)
	}
	p.boots()
	if ran := p.run(t, 0)["web"]; ran.Result != decide.ResultFailed || everything(p.h[0], t) != before {
		t.Errorf("%+v", ran)
	}
	back.Snapshots = nil
	p.boots()
	if plan, err = p.r[0].TakeOver(context.Background(), "web", "", false); err != nil || plan.Result != decide.ResultDone || len(plan.Steps) != 1 {
		t.Errorf("%+v %v", plan, err)
	}
	p.boots()
	p.worksOn(t, 0)
	if have := p.snapshots(0); !slices.Equal(have, []string{"S10"}) {
		t.Errorf("%v", have)
	}
}

// A state that the first host has seen to be lost is lost on the next one.
func TestWhatIsLostIsLostOnTheNextHost(t *testing.T) {
	p := left(t, 9, 10)
	lost := journal.LostRecord{Snapshots: []journal.Destroyed{{Snapshot: hosttest.Name(9), Disk: "vda", Base: "x", Sure: true}}}
	d := p.h[1].Find("web").Domain
	hosttest.Must(journal.SaveLost(filepath.Join(p.h[0].Dir, "state"), &d, lost))
	p.h[0].Guests, p.h[1].Guests = p.h[1].Guests, nil
	p.h[0].Guests[0].Snapshots = nil
	hosttest.Must(p.h[0].DefineSnapshots(context.Background(), "uuid-of-web", p.texts(t)))
	p.boots()
	p.run(t, 0)
	p.fails(t)
	p.boots()
	tookOverAll(t, p)
	if have := journal.LoadLost(filepath.Join(p.h[1].Dir, "state"), "uuid-of-web"); len(have.Snapshots) != 1 {
		t.Errorf("%+v", have)
	}
}

func (p *pair) texts(t *testing.T) []host.SnapshotText {
	t.Helper()
	all, err := journal.HandoversIn(filepath.Join(p.h[0].Dir, "img/.virt-rotate")).ReadTexts("uuid-of-web")
	hosttest.Must(err)
	return all
}

// A guest that cannot be taken up is not even thawed.
func TestNothingIsSettledOfAGuestThatIsHeld(t *testing.T) {
	p := left(t, 9, 10)
	state := filepath.Join(p.h[1].Dir, "state")
	hosttest.Must(journal.In(state).Write(journal.Intent{Domain: "web", UUID: "uuid-of-web", Started: p.h[1].Now, Quiesce: true, Paused: true}))
	hosttest.Must(os.WriteFile(p.record("guests"), []byte("{"), 0o600))
	p.h[1].Find("web").State = host.Paused
	_, _ = p.r[1].TakeOver(context.Background(), "web", "host1", false)
	p.boots()
	ran := p.run(t, 1)["web"]
	if _, err := journal.In(state).Read("uuid-of-web"); err != nil || ran.Result != decide.ResultFailed || p.h[1].Find("web").State != host.Paused || p.h[1].Thawed > 0 {
		t.Errorf("%+v %v", ran, err)
	}
}

// An overlay that cannot be seen just now is no reason to forget its snapshot.
func TestASnapshotWhoseFileIsAwayIsTakenUp(t *testing.T) {
	p := left(t, 9, 10)
	path := p.h[0].Img("web." + hosttest.Name(9) + ".qcow2")
	hosttest.Must(os.Rename(path, path+".away"))
	_, _ = p.r[1].TakeOver(context.Background(), "web", "", false)
	hosttest.Must(os.Rename(path+".away", path))
	p.boots()
	p.run(t, 1)
	if have := p.snapshots(1); !slices.Equal(have, []string{"S9", "S10"}) {
		t.Errorf("%v", have)
	}
	p.check(t)
}

// A snapshot that is pinned is so on the next host as well.
func TestAPinIsTakenUp(t *testing.T) {
	p, web := newPair(t, 9, 10)
	web.State = host.ShutOff
	p.run(t, 0)
	p.boots()
	_, err := p.r[0].Describe(context.Background(), "web", []string{hosttest.Name(9)}, func(m *host.Mark) { m.Pinned = true })
	hosttest.Must(err)
	p.fails(t)
	p.boots()
	tookOverAll(t, p)
	p.boots()
	p.r[1].Match = rotator(p.h[1], rule(1)).Match
	p.worksOn(t, 1)
	if mark, ours := p.h[1].Find("web").Snapshot(hosttest.Name(9)).Mark(); !ours || !mark.Pinned {
		t.Errorf("%+v", mark)
	}
}

// What is over is on no record.
func TestWhatIsDoneIsOffTheRecordOfOtherHosts(t *testing.T) {
	for _, state := range []host.State{host.Running, host.ShutOff} {
		p, web := newPair(t, 9, 10, 11)
		web.State = state
		p.run(t, 0)
		h, err := journal.HandoversIn(filepath.Join(p.h[0].Dir, "img/.virt-rotate")).Read("uuid-of-web")
		if err != nil || h.Intent != nil || len(h.Released) > 0 || len(h.Names) != 2 || !slices.Equal(h.Tops, []string{web.Disks[0].Active().Path}) {
			t.Errorf("%+v %v", h, err)
		}
	}
}

// The owner sees to it that what it leaves is how it is, also where somebody else has changed it.
func TestTheRecordFollowsWhatOthersDoToSnapshots(t *testing.T) {
	p, web := newPair(t, 9, 10)
	p.run(t, 0)
	p.h[0].Foreign(web, "mine", 11)
	p.boots()
	p.run(t, 0)
	texts, err := journal.HandoversIn(filepath.Join(p.h[0].Dir, "img/.virt-rotate")).ReadTexts("uuid-of-web")
	if err != nil || len(texts) != 3 || texts[2].Name != "mine" {
		t.Errorf("%+v %v", texts, err)
	}
	p.boots()
	p.h[0].Event = func(what string) error {
		if what == "call texts" {
			t.Error("the metadata of all snapshots is read though nothing has changed")
		}
		return nil
	}
	p.run(t, 0)
}

// A host that has taken the guest meanwhile is not written over.
func TestARecordOfAnotherHostIsNotOverwritten(t *testing.T) {
	p, web := newPair(t, 9, 10, 11)
	p.run(t, 0)
	p.h[0].Now = p.h[0].Now.Add(3600e9)
	j := journal.HandoversIn(filepath.Join(p.h[0].Dir, "img/.virt-rotate"))
	before := len(web.Snapshots)
	p.boots()
	p.r[0].crash = func(place string) {
		if place == "before the intent" {
			h, err := j.Read("uuid-of-web")
			hosttest.Must(err)
			h.By, h.Host = "another", "host2"
			hosttest.Must(j.Write(h))
		}
	}
	p.h[0].Take(web, []int{12})
	ran := p.run(t, 0)["web"]
	if ran.Result != decide.ResultFailed || !strings.Contains(ran.Error, "host2") || merges(ran) > 0 || len(web.Snapshots) != before+1 {
		t.Errorf("%+v", ran)
	}
}

// A host dies between the end of a merge of what the guest wrote to and its telling so: a person decides which of the
// two layers counts.
func TestALayerThatWasBeingMergedIsForAPersonToDecide(t *testing.T) {
	for _, base := range []bool{true, false} {
		p, web := newPair(t, 9, 10)
		web.State = host.ShutOff
		p.known(t)
		p.boots()
		p.r[0].Match = rotator(p.h[0], with(rule(0), func(r *policy.Rule) { r.Keep = policy.Keep{} })).Match
		newest, before := web.Disks[0].Active().Path, web.Observed(nil)
		if !die(p.h[0], p.r[0], func(place string) bool { return place == "on record" }) {
			t.Fatal("no such place")
		}
		if !base {
			web.Disks = before.Disks
		}
		p.fails(t)
		p.boots()
		if base {
			plan, err := p.r[1].TakeOver(context.Background(), "web", "", false)
			if err != nil || !refusedWith(plan, host.CodeElsewhere) || !strings.Contains(fmt.Sprint(plan.Refused), "which of the two") || !strings.Contains(fmt.Sprint(plan.Refused), newest) {
				t.Errorf("%+v %v", plan, err)
			}
			hosttest.Must(os.Rename(newest, filepath.Join(p.h[0].Dir, "old"))) // out of the way of what looks for images
			p.boots()
		}
		tookOverAll(t, p)
		p.check(t)
		p.boots()
		p.worksOn(t, 1)
	}
}

// One host has mounted the storage at another level, and tells at both: what was left later counts, and all of it is signed.
func TestWhatWasLeftLaterCountsOnAStorageOfTwoLevels(t *testing.T) {
	p, web := newPair(t, 9, 10)
	web.State = host.ShutOff
	first := func() {
		p.boots()
		p.r[0].Observer.Fleet.Shared = []string{p.h[0].Dir}
	}
	first()
	p.run(t, 0)
	p.h[1].Disk(p.h[1].Add("other"), "vda", p.shared("other.qcow2"))
	p.run(t, 1)
	first()
	p.run(t, 0)
	for _, dir := range []string{p.h[0].Dir, filepath.Join(p.h[0].Dir, "img")} {
		if h, err := journal.HandoversIn(filepath.Join(dir, ".virt-rotate")).Read("uuid-of-web"); err != nil || h.Epoch != 1 {
			t.Fatalf("%s: %+v %v", dir, h, err)
		}
	}
	p.fails(t)
	first()
	p.r[1].Match = rotator(p.h[1], rule(1)).Match
	plan, err := p.r[1].TakeOver(context.Background(), "web", "", false)
	if err != nil || plan.Error != "" {
		t.Fatalf("%+v %v", plan, err)
	}
	p.worksOn(t, 1) // drops S9
	there := p.h[1].Find("web")
	p.h[0].Guests = []*hosttest.Domain{{Domain: there.Observed(nil), Want: there.Want, States: there.States, Deleted: map[string]bool{}}}
	p.h[0].Guests[0].Snapshots = nil
	p.h[1].Guests = slices.DeleteFunc(p.h[1].Guests, func(d *hosttest.Domain) bool { return d == there })
	first()
	at := ""
	dieWith(p.h[0], p.r[0], func() { _, _ = p.r[0].TakeOver(context.Background(), "web", "", false) }, func(place string) bool {
		at = place
		return place == "signed"
	})
	if at != "signed" {
		t.Fatalf("it ended at %q", at)
	}
	first()
	p.worksOn(t, 0)
	if have := p.snapshots(0); !slices.Equal(have, []string{"S10"}) {
		t.Errorf("%v", have)
	}
	for _, dir := range []string{p.h[0].Dir, filepath.Join(p.h[0].Dir, "img")} {
		if h, err := journal.HandoversIn(filepath.Join(dir, ".virt-rotate")).Read("uuid-of-web"); err != nil || h.Epoch < 3 || h.Host != "host1" {
			t.Errorf("%s: %+v %v", dir, h, err)
		}
	}
}

// The newest layer lies on another storage than the rest: a definition that lacks it is an old one all the same.
func TestADefinitionWithoutALayerOnAnotherStorageIsNotTakenOver(t *testing.T) {
	p, web := newPair(t, 9)
	web.State = host.ShutOff
	second := t.TempDir() // on another file system than the rest, which is in memory
	boots := func() {
		p.boots()
		for i := range p.r {
			p.r[i].Observer.Fleet.Shared = []string{filepath.Join(p.h[0].Dir, "img"), second}
		}
	}
	boots()
	before := web.Observed(nil)
	p.h[0].Store(filepath.Join(second, "top.qcow2"), hosttest.Image{Format: "qcow2", Size: hosttest.Size, Backing: web.Disks[0].Active().Path, BackingFormat: "qcow2", Blocks: hosttest.Blocks{}})
	web.Disks[0].Chain = append(web.Disks[0].Chain, host.Layer{Path: filepath.Join(second, "top.qcow2"), Format: "qcow2", Kind: host.KindFile})
	web.Disks[0].Inactive = host.Paths(web.Disks[0].Chain)
	p.run(t, 0)
	p.fails(t)
	p.h[1].Find("web").Disks = before.Disks
	boots()
	plan, err := p.r[1].TakeOver(context.Background(), "web", "host1", false)
	if err != nil || !refusedWith(plan, host.CodeElsewhere) || !strings.Contains(fmt.Sprint(plan.Refused), "top.qcow2") {
		t.Errorf("%+v %v", plan, err)
	}
}

// A run that tells of its guest's new layer knows less of the others than their own runs.
func TestOneGuestIsToldAlone(t *testing.T) {
	p, web := newPair(t, 9)
	p.h[0].Disk(p.h[0].Add("db"), "vda", "db.qcow2")
	p.run(t, 0)
	p.boots()
	old, err := p.r[0].Observer.Observe(context.Background())
	hosttest.Must(err)
	p.h[0].Take(web, []int{10})
	now, err := p.r[0].Observer.Observe(context.Background())
	hosttest.Must(err)
	hosttest.Must(p.r[0].Observer.Tell(context.Background(), now, observe.News{}))
	p.r[0].Observer.TellGuest(context.Background(), old, old.Domain("db"))
	now, err = p.r[0].Observer.Observe(context.Background())
	hosttest.Must(err)
	if !p.r[0].Observer.TopsTold(now, now.Domain("web")) || !p.r[0].Observer.TopsTold(now, now.Domain("db")) {
		t.Errorf("%+v", now.Shares[0].View.Mine)
	}
}

// Nothing is done with a guest of which the others could not be told whose it is: that would write over what was left.
func TestWhatIsLeftStaysWhereTheOthersCannotBeTold(t *testing.T) {
	p := left(t, 9, 10)
	p.run(t, 0) // it does not have the guest any more
	before, err := os.ReadFile(p.record("snapshots"))
	hosttest.Must(err)
	for _, name := range []string{"users-1-0", "users-1-1"} {
		hosttest.Must(os.Mkdir(filepath.Join(p.h[0].Dir, "img/.virt-rotate", name), 0o700))
	}
	p.boots()
	p.r[1].Options = decide.Options{}
	ran := p.run(t, 1)["web"]
	after, err := os.ReadFile(p.record("snapshots"))
	hosttest.Must(err)
	if ran.Result != decide.ResultFailed || !strings.Contains(ran.Error, "could not be told") || string(after) != string(before) {
		t.Errorf("%+v\n%s", ran, after)
	}
}
