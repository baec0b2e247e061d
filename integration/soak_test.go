package integration_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// A soak is a month in the life of a host, with a clock of its own: guests run and
// are shut off, write, and are rotated, and virt-rotate is killed now and then.
type soak struct {
	*bed
	random   *rand.Rand
	guests   []soakGuest
	now      time.Time
	every    time.Duration
	ledger   map[string]states // guest → snapshot → its state when it was first seen
	listed   map[string][]string
	golden   string // sha256
	counts   map[string]int
	killedAt map[string]int
}

// A soakGuest is a guest of the host.
type soakGuest struct {
	guest.Spec
	on    int // in so many percent of the rotations it runs
	below int // layers of its chain below the one that merges go to
}

const (
	soakDays = 30
	soakKeep = `{ last = 3, daily = 4, weekly = 2 }`
	// idle is how often, in percent, a guest that is off stays off and writes nothing.
	soakIdle = 15
	// soakKills: one in so many runs is killed.
	soakKills = 3
)

// Thirty days pass, in VIRT_ROTATE_SOAK runs or a few. No state is lost that the
// policy keeps, none changes, and in the end nothing is left over.
func TestSoak(t *testing.T) {
	t.Parallel()
	runs := times(t, "VIRT_ROTATE_SOAK", often(6, 2))
	s := newSoak(t, runs)
	for i := 0; i < runs && !t.Failed(); i++ {
		s.round(i%soakKills == 1)
		if i%50 == 49 {
			t.Logf("%d runs: %v; killed at: %v", i+1, s.counts, s.killedAt)
		}
	}
	s.end()
	t.Logf("%d runs in %d days of %v each: %v; killed at: %v", runs, soakDays, s.every, s.counts, s.killedAt)
	if s.counts["rotations"] < runs {
		t.Errorf("only %d rotations in %d runs", s.counts["rotations"], runs)
	}
	if runs >= 50 && s.counts["kills"] < runs/10 {
		t.Errorf("only %d kills in %d runs", s.counts["kills"], runs)
	}
}

func newSoak(t *testing.T, runs int) *soak {
	t.Helper()
	s := &soak{
		bed: newDaemonBed(t), random: rand.New(rand.NewPCG(uint64(times(t, "VIRT_ROTATE_SEED", 1)), 1)),
		// In the past: libvirt dates snapshots itself, and one of the future is never dropped.
		now: time.Now().Add(-(soakDays + 1) * 24 * time.Hour).Truncate(time.Second), every: soakDays * 24 * time.Hour / time.Duration(runs),
		ledger: map[string]states{}, listed: map[string][]string{}, counts: map[string]int{}, killedAt: map[string]int{},
	}
	s.program = mortal
	s.writePolicy(fmt.Sprintf("[policy.p]\ndomains = [\"g*\"]\nevery = \"%ds\"\nkeep = %s\nmin_free = \"0%%\"", int(s.every.Seconds()), soakKeep))
	must(t, os.MkdirAll(s.path("images"), 0o755))
	golden := s.path("images", "golden.qcow2")
	s.qemuImg("create", "-q", "-f", "qcow2", golden, "8M")
	s.golden = sum(t, golden)
	clone := guest.DiskSpec{Path: s.path("images", "g3.qcow2"), Backing: golden, BackingFormat: "qcow2"}
	s.guests = []soakGuest{
		{Spec: guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{}, {Format: "raw"}}}, on: 80},
		{Spec: guest.Spec{Name: "g2"}, on: 50},
		{Spec: guest.Spec{Name: "g3", Disks: []guest.DiskSpec{clone}}, on: 50, below: 1},
		{Spec: guest.Spec{Name: "g4", Disks: []guest.DiskSpec{{Format: "raw"}}}, on: 10},
	}
	for _, g := range s.guests {
		s.logsOnFailure(g.Name)
		s.ledger[g.Name] = states{}
		s.define(g.Spec)
	}
	other := clone
	other.Path = s.path("images", "other.qcow2")
	s.define(guest.Spec{Name: "other", Disks: []guest.DiskSpec{other}})
	return s
}

// round lets time go by, the guests write, and virt-rotate run once.
func (s *soak) round(kill bool) {
	s.t.Helper()
	s.now = s.now.Add(s.every)
	s.env = []string{"VIRT_ROTATE_CLOCK=" + s.now.UTC().Format(time.RFC3339)}
	for _, g := range s.guests {
		s.live(g)
	}
	if kill {
		s.killedRun()
	} else {
		s.cleanRun()
	}
	for _, g := range s.guests {
		s.dateSnapshots(g.Name)
		s.check(g)
	}
}

// live lets a guest write, and be in some state when virt-rotate comes.
func (s *soak) live(g soakGuest) {
	s.t.Helper()
	off := s.random.IntN(100) >= g.on
	if s.domState(g.Name) == "shut off" && off && s.random.IntN(100) < soakIdle {
		s.counts["idle"]++
		return
	}
	s.bring(g.Name, "running")
	s.waitWrites(g.Name, uint64(s.random.IntN(40)))
	if off {
		s.bring(g.Name, "shut off")
		s.counts["off"]++
	}
}

func (s *soak) cleanRun(args ...string) {
	s.t.Helper()
	var r report
	s.rotate(append([]string{"run", "--output=json"}, args...)...).wantExit(s.t, 0).decode(s.t, &r)
	s.counts["runs"]++
	for _, d := range r.Domains {
		if d.Result == "done" {
			s.counts["rotations"]++
		}
		for _, step := range d.Steps {
			s.counts[step.Op+" "+step.Method]++
		}
	}
}

// killedRun kills a run at a boundary, at a write of the engine, or at any time.
func (s *soak) killedRun() {
	s.t.Helper()
	place := ""
	switch what := s.random.IntN(3); what {
	case 0:
		place = s.dieAt("boundary", 1+s.random.IntN(80), "run")
	case 1:
		place = s.dieAt("write", 1+s.random.IntN(120), "run")
	default:
		r := s.beginRotate("run")
		time.Sleep(time.Duration(s.random.Int64N(int64(1500 * time.Millisecond))))
		if r.kill().Exit == -1 {
			place = "any"
		}
	}
	place, _, _ = strings.Cut(place, " /")
	if place == "" {
		place = "the end: it was over"
	} else {
		s.counts["kills"]++
	}
	s.killedAt[place]++
}

var stamp = regexp.MustCompile(`-(\d{8}T\d{6}Z)`)

// taken is when a snapshot was taken by the clock of the soak, which is in its name.
func (s *soak) taken(name string) time.Time {
	s.t.Helper()
	m := stamp.FindStringSubmatch(name)
	if m == nil {
		s.t.Fatalf("snapshot %q", name)
	}
	at, err := time.Parse("20060102T150405Z", m[1])
	must(s.t, err)
	return at
}

// dateSnapshots gives new snapshots the time of the soak's clock.
func (s *soak) dateSnapshots(dom string) {
	s.t.Helper()
	for _, snap := range s.snapshots(dom) {
		if at := s.taken(snap.Name); snap.Created != at.Unix() {
			s.backdate(dom, snap.Name, at)
		}
	}
}

// check compares what is there with all that was ever seen of a guest.
func (s *soak) check(g soakGuest) {
	s.t.Helper()
	kept, ledger := s.keptStates(g.Name), s.ledger[g.Name]
	names := slices.Sorted(maps.Keys(kept))
	all := slices.Compact(slices.Sorted(slices.Values(append(names, s.listed[g.Name]...))))
	for _, name := range s.wanted(all) {
		if !slices.Contains(names, name) {
			s.t.Errorf("%s: snapshot %s is lost; there were %q, are %q", g.Name, name, s.listed[g.Name], names)
		}
	}
	for name, state := range kept {
		if was, seen := ledger[name]; seen && !maps.Equal(was, state) {
			s.t.Errorf("%s, snapshot %s: state changed from %v to %v", g.Name, name, was, state)
		}
		ledger[name] = state
	}
	last := uint64(0)
	for _, name := range names {
		if k := kept[name]["vda"].Blocks; k < last {
			s.t.Errorf("%s: snapshot %s has %d blocks, one before it %d", g.Name, name, k, last)
		} else {
			last = k
		}
	}
	if k := s.checkGuest(g.Name)["vda"].Blocks; k < last {
		s.t.Errorf("%s has %d blocks, its newest snapshot %d", g.Name, k, last)
	}
	s.listed[g.Name] = names
}

// wanted are the snapshots that the policy keeps of those with these names, oldest
// first: soakKeep, worked out once more.
func (s *soak) wanted(names []string) []string {
	s.t.Helper()
	keep := map[string]bool{}
	days, weeks := map[string]bool{}, map[string]bool{}
	for i, name := range slices.Backward(names) {
		at := s.taken(name).Local()
		year, week := at.ISOWeek()
		d, w := at.Format(time.DateOnly), fmt.Sprint(year, week)
		if i >= len(names)-3 || !days[d] && len(days) < 4 || !weeks[w] && len(weeks) < 2 {
			keep[name] = true
		}
		days[d], weeks[w] = true, true
	}
	return slices.Sorted(maps.Keys(keep))
}

// end runs virt-rotate without harm until there is nothing to do, and sees that
// exactly what the policy keeps is there.
func (s *soak) end() {
	s.t.Helper()
	s.cleanRun()
	for _, g := range s.guests {
		s.dateSnapshots(g.Name)
	}
	for range 2 {
		s.cleanRun("--no-snapshot")
	}
	for _, g := range s.guests {
		s.check(g)
		if names := s.snapshotNames(g.Name); !slices.Equal(slices.Sorted(slices.Values(names)), s.wanted(names)) {
			s.t.Errorf("%s has snapshots %q, the policy keeps %q", g.Name, names, s.wanted(names))
		}
		s.noLeftovers(g.Name)
		snapshots := s.snapshots(g.Name)
		for _, d := range s.disks(g.Name) {
			if have, want := s.overlaysOf(d)[g.below:], overlaysOf(snapshots, d.Target); !slices.Equal(have, want) {
				s.t.Errorf("%s %s: overlays %q, snapshots name %q", g.Name, d.Target, have, want)
			}
		}
		s.bring(g.Name, "running")
		s.restart(g.Name)
	}
	s.noRecords()
	if r := s.rotate("doctor").wantExit(s.t, 0); !strings.Contains(r.Stdout, "nothing found") {
		s.t.Errorf("doctor: %v", r)
	}
	if now := sum(s.t, filepath.Join(s.path("images"), "golden.qcow2")); now != s.golden {
		s.t.Error("the golden image has changed")
	}
}
