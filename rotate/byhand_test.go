package rotate

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// byHand is a rotator that does what a person asks of web, whatever the policy.
func byHand(h *hosttest.Host, rule *policy.Rule, hand decide.ByHand) *Rotator {
	r := rotator(h, rule)
	r.Options.ByHand = &hand
	r.Match = decide.CoverAll(r.Match, []string{"web"})
	return r
}

// say changes what the descriptions of snapshots say.
func say(h *hosttest.Host, t *testing.T, change func(*host.Mark), hours ...int) {
	t.Helper()
	for _, n := range hours {
		if _, err := rotator(h, rule(3)).Describe(t.Context(), "web", []string{hosttest.Name(n)}, change); err != nil {
			t.Fatal(err)
		}
	}
}

func pin(m *host.Mark) { m.Pinned = true }

func expireAt(hour int) func(*host.Mark) {
	return func(m *host.Mark) { m.Expires = hosttest.Hour(hour) }
}

// handScenes are crashScenes of what a person asks for.
func handScenes() []crashScene {
	foreign := func(names ...string) func(h *hosttest.Host) {
		return func(h *hosttest.Host) {
			web := h.Add("web")
			h.Disk(web, "vda", "web.qcow2")
			h.Take(web, []int{7})
			for i, name := range names {
				h.Foreign(web, name, 8+i)
			}
			h.Take(web, []int{10, 11})
		}
	}
	off := func(build func(h *hosttest.Host)) func(h *hosttest.Host) {
		return func(h *hosttest.Host) { build(h); h.Find("web").State = host.ShutOff }
	}
	drop := func(names ...string) decide.Options {
		return decide.Options{ByHand: &decide.ByHand{Drop: names, Foreign: true}}
	}
	nightly := func(h *hosttest.Host) { one(8, 9, 10, 11)(h, h.Add("web")) }
	return []crashScene{
		{"deleted by hand", nightly, rule(1), drop(hosttest.Name(9)), 15},
		{"deleted by hand, off", off(nightly), rule(1), drop(hosttest.Name(9), hosttest.Name(11)), 15},
		{"a foreign one deleted by hand", foreign("mine"), rule(9), drop("mine"), 15},
		{"foreign ones deleted by hand, off", off(foreign("mine", "yours")), rule(9), drop("mine", "yours"), 15},
		{"pruned by hand", nightly, rule(9), decide.Options{ByHand: &decide.ByHand{Prune: &policy.Keep{Last: 1}}}, 15},
	}
}

func TestASnapshotByHandIsAllThatIsDone(t *testing.T) {
	h := hosttest.New(t)
	one(9, 10, 11)(h, h.Add("web"))
	until := hosttest.Hour(13).Add(24 * time.Hour)
	r := byHand(h, rule(1), decide.ByHand{Take: &decide.Taking{Name: "before-upgrade", Note: "of the database", Expires: until}})
	p := runAll(h, t, r)["web"]
	if p.Error != "" || len(p.Steps) != 1 || p.Steps[0].Op != decide.OpSnapshot || p.Steps[0].Reason != "asked for" {
		t.Fatalf("%+v %s", p.Steps, p.Error)
	}
	web := h.Find("web")
	s := web.Snapshot("before-upgrade")
	if s == nil || len(web.Snapshots) != 4 {
		t.Fatalf("snapshots: %+v", web.Snapshots)
	}
	want := host.Mark{Policy: "p", Note: "of the database", Expires: until}
	if m, ok := s.Mark(); !ok || m.String() != want.String() {
		t.Errorf("the description is %q, want %q", s.Description, want)
	}
	overlay := s.OverlayOf("vda")
	if !host.IsOverlay(overlay) || host.SnapshotOf(overlay) != "before-upgrade-"+hosttest.Hour(12).Format(host.Stamp) {
		t.Errorf("the overlay is %s", overlay)
	}
	checkData(h, t)
	checkNoIntent(h, t)
	if _, err := LastRuns(r.Observer.StateDir); err != nil || len(lastRuns(t, r)) > 0 {
		t.Errorf("what a person asks for is no run by the clock: %v", lastRuns(t, r))
	}
	h.Now = hosttest.Hour(13)
	if p := runAll(h, t, rotator(h, rule(1)))["web"]; p.Error != "" || h.Find("web").Snapshot("before-upgrade") == nil {
		t.Fatalf("the next run: %+v %s", p.Steps, p.Error)
	}
	h.Now = until
	if p := runAll(h, t, rotator(h, rule(1)))["web"]; p.Error != "" || h.Find("web").Snapshot("before-upgrade") != nil {
		t.Errorf("it is to go once it expires: %+v %s", p.Steps, p.Error)
	}
	checkDone(h, t)
}

func lastRuns(t *testing.T, r *Rotator) map[string]LastRun {
	t.Helper()
	runs, err := LastRuns(r.Observer.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	return runs
}

func TestASnapshotByHandOfGuestsThatRunsLeaveAlone(t *testing.T) {
	for name, change := range map[string]func(*policy.Rule){
		"off":        func(r *policy.Rule) { r.Offline = policy.OfflineSkip },
		"keeps none": func(r *policy.Rule) { r.Keep = policy.Keep{} },
	} {
		t.Run(name, func(t *testing.T) {
			h := hosttest.New(t)
			web := h.Add("web")
			one(9)(h, web)
			web.State = host.ShutOff
			runAll(h, t, byHand(h, with(rule(2), change), decide.ByHand{Take: &decide.Taking{Name: "mine", Pinned: true}}))
			if h.Find("web").Snapshot("mine") == nil {
				t.Error("no snapshot was taken")
			}
			if name == "keeps none" {
				runAll(h, t, rotator(h, with(rule(2), change)))
				if web := h.Find("web"); web.Snapshot("mine") == nil || len(web.Snapshots) != 1 {
					t.Errorf("what is pinned stays, and the others go: %+v", web.Snapshots)
				}
			}
			checkDone(h, t)
		})
	}
}

func TestANameThatIsTakenIsRefused(t *testing.T) {
	h := hosttest.New(t)
	one(9, 10)(h, h.Add("web"))
	p := planOf(h, t, byHand(h, rule(3), decide.ByHand{Take: &decide.Taking{Name: hosttest.Name(9)}}), "web")
	if len(p.Refused) != 1 || p.Refused[0].Code != host.CodeNameTaken || len(p.Steps) > 0 {
		t.Errorf("%+v %+v", p.Refused, p.Steps)
	}
}

// Pins count for no rule: the newest two stay beside the pinned ones.
func TestWhatIsPinnedStaysAndCountsForNothing(t *testing.T) {
	h := hosttest.New(t)
	one(6, 7, 8, 9, 10, 11)(h, h.Add("web"))
	say(h, t, pin, 7, 10)
	r := rotator(h, rule(2))
	r.Options.NoSnapshot = true
	if p := runAll(h, t, r)["web"]; p.Error != "" {
		t.Fatal(p.Error)
	}
	wantSnapshots(h, t, 7, 9, 10, 11)
	checkDone(h, t)
	say(h, t, func(m *host.Mark) { m.Pinned = false }, 7, 10)
	runAll(h, t, r)
	wantSnapshots(h, t, 10, 11)
	checkDone(h, t)
}

func wantSnapshots(h *hosttest.Host, t *testing.T, hours ...int) {
	t.Helper()
	var have, want []string
	for _, s := range h.Find("web").Snapshots {
		have = append(have, s.Name)
	}
	for _, n := range hours {
		want = append(want, hosttest.Name(n))
	}
	if !slices.Equal(have, want) {
		t.Errorf("snapshots: %v, want %v", have, want)
	}
}

// A guest without a policy is worked on for what a person wanted to expire, and for nothing else.
func TestWhatExpiresGoesFromGuestsWithoutAPolicy(t *testing.T) {
	h := hosttest.New(t)
	one(8, 9, 10, 11)(h, h.Add("web"))
	r := rotator(h, rule(1))
	r.Match = func([]policy.Guest) policy.Assignment {
		return policy.Assignment{Rules: map[string]*policy.Rule{}, Conflicts: map[string]*policy.Conflict{}}
	}
	if by := runAll(h, t, r); len(by) > 0 {
		t.Fatalf("no policy covers it: %+v", by)
	}
	say(h, t, expireAt(13), 9)
	say(h, t, pin, 8)
	for hour, want := range map[int][]int{12: {8, 9, 10, 11}} {
		h.Now = hosttest.Hour(hour)
		runAll(h, t, r)
		wantSnapshots(h, t, want...)
	}
	h.Now = hosttest.Hour(14)
	p := runAll(h, t, r)["web"]
	if p.Error != "" || p.Policy != decide.Manual || len(p.Steps) == 0 || !strings.HasPrefix(p.Steps[0].Reason, "expired ") {
		t.Errorf("%+v %s", p.Steps, p.Error)
	}
	wantSnapshots(h, t, 8, 10, 11)
	checkDone(h, t)
	h.Now = hosttest.Hour(23)
	if st := statusOf(h, t, r); st.Due != nil {
		t.Errorf("a snapshot is due at %v, which nobody asked for", st.Due)
	}
}

func statusOf(h *hosttest.Host, t *testing.T, r *Rotator) DomainStatus {
	t.Helper()
	w := see(h, t)
	return Status(w, w.Domain("web"), decide.Assign(w, r.Match).Rules["web"], nil, h.Now)
}

func TestOnlyWhatIsNamedIsDeleted(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one(7, 8, 9, 10, 11)(h, web)
	r := byHand(h, with(rule(1), func(r *policy.Rule) { r.Window = closedAt(t, 12) }), decide.ByHand{Drop: []string{hosttest.Name(8), hosttest.Name(10)}})
	if p := runAll(h, t, r)["web"]; p.Error != "" || p.Waiting != "" || !strings.HasPrefix(p.Steps[0].Reason, "its end was asked for") {
		t.Fatalf("%+v %s %s", p.Steps, p.Waiting, p.Error)
	}
	wantSnapshots(h, t, 7, 9, 11)
	checkDone(h, t)
}

// closedAt is a window that is closed at that hour.
func closedAt(t *testing.T, hour int) (w policy.Window) {
	t.Helper()
	hosttest.Must(w.UnmarshalText([]byte("02:00-03:00")))
	if w.Open(hosttest.Hour(hour)) {
		t.Fatal("the window is open")
	}
	return w
}

func TestWhatStaysWhateverIsNamed(t *testing.T) {
	for _, c := range []struct {
		name, code string
		hand       decide.ByHand
	}{
		{"pinned", host.CodePinned, decide.ByHand{Drop: []string{hosttest.Name(8)}}},
		{"pinned, with --foreign", host.CodePinned, decide.ByHand{Drop: []string{hosttest.Name(8)}, Foreign: true}},
		{"somebody else's", host.CodeForeign, decide.ByHand{Drop: []string{"mine"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := hosttest.New(t)
			web := h.Add("web")
			h.Disk(web, "vda", "web.qcow2")
			h.Take(web, []int{8})
			h.Foreign(web, "mine", 9)
			h.Take(web, []int{10})
			say(h, t, pin, 8)
			p := runAll(h, t, byHand(h, rule(1), c.hand))["web"]
			if len(p.Refused) != 1 || p.Refused[0].Code != c.code || len(p.Steps) > 0 {
				t.Errorf("%+v %+v", p.Refused, p.Steps)
			}
			checkData(h, t)
		})
	}
}

// A snapshot that was asked for by hand is there whole after a crash, or not at all, whatever runs
// do that know nothing of what was asked.
func TestASnapshotByHandThatDiesIsThereOrNot(t *testing.T) {
	seen := map[bool]int{}
	for n := 1; ; n++ {
		h := hosttest.New(t)
		one(9, 10, 11)(h, h.Add("web"))
		r := byHand(h, rule(2), decide.ByHand{Take: &decide.Taking{Name: "before-upgrade", Pinned: true}})
		count := 0
		if !die(h, r, func(string) bool { count++; return count == n }) {
			break
		}
		h.AfterCrash(hosttest.JobsGoOn)
		finishes(h, t, rule(2), decide.Options{})
		checkDone(h, t)
		s := h.Find("web").Snapshot("before-upgrade")
		if seen[s != nil]++; s != nil {
			if m, _ := s.Mark(); !m.Pinned {
				t.Errorf("place %d: %s", n, s.Description)
			}
		}
	}
	if seen[true] < 3 || seen[false] < 5 {
		t.Errorf("there %d times, not there %d times: is a hook broken?", seen[true], seen[false])
	}
}

// A foreign snapshot that was asked to go is gone whole, or there whole, whatever runs do after
// a crash that know nothing of what was asked. A layer with the state of another foreign one stays.
func TestAForeignOneThatHalfWentIsFinishedByRuns(t *testing.T) {
	for _, s := range handScenes() {
		if !strings.Contains(s.name, "foreign") {
			continue
		}
		for _, fate := range []string{hosttest.JobsGoOn, hosttest.JobsDie, hosttest.JobsFinish} {
			t.Run(s.name+", "+fate, func(t *testing.T) {
				t.Parallel()
				n := 1
				for ; ; n++ {
					h, r := s.host(t, uint64(n))
					count := 0
					if !die(h, r, func(string) bool { count++; return count == n }) {
						break
					}
					h.AfterCrash(fate)
					finishes(h, t, with(rule(9), func(r *policy.Rule) { r.Every = 100 * time.Hour }), decide.Options{})
					checkDone(h, t)
					if web := h.Find("web"); len(web.Disks[0].Chain) != 1+len(web.Snapshots) && web.Snapshot("yours") == nil {
						t.Errorf("place %d: %d layers, %d snapshots", n, len(web.Disks[0].Chain), len(web.Snapshots))
					}
				}
				if n <= s.places {
					t.Errorf("only %d places to die at", n-1)
				}
			})
		}
	}
}

func TestDescriptionsThatCannotBeChanged(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	h.Disk(web, "vda", "web.qcow2")
	h.Take(web, []int{8})
	h.Foreign(web, "mine", 9)
	r := rotator(h, rule(3))
	var refused *chain.RefusedError
	if _, err := r.Describe(t.Context(), "web", []string{hosttest.Name(8), "mine"}, pin); !errors.As(err, &refused) {
		t.Errorf("somebody else's: %v", err)
	}
	if _, err := r.Describe(t.Context(), "web", []string{hosttest.Name(8), "none"}, pin); !errors.Is(err, observe.ErrNoSuchSnapshot) {
		t.Errorf("none: %v", err)
	}
	if m, _ := h.Find("web").Snapshots[0].Mark(); m.Pinned {
		t.Error("one of them was changed all the same")
	}
}
