package integration_test

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// The tests in crash_*_test.go kill virt-rotate, libvirtd or QEMU while a guest
// writes, and check one promise: the snapshots that the policy keeps and the
// guest's own disks are what they were, and after the next run nothing is left over.

// mortal builds a virt-rotate that can be told at which boundary to die.
var mortal = sync.OnceValues(func() (string, error) { return build("virt-rotate-mortal", "libvirt_dlopen,failpoint") })

// rotateUntil runs virt-rotate until its n-th boundary, where it dies, and
// returns the boundary's name; "" when the run ended by itself before.
func (b *bed) rotateUntil(n int, args ...string) string {
	b.t.Helper()
	return b.dieAt("boundary", n, args...)
}

// killAt is which variable of the environment says where a mortal virt-rotate dies.
var killAt = map[string]string{"boundary": "VIRT_ROTATE_KILL_AT", "write": "VIRT_ROTATE_KILL_AT_WRITE"}

// dieAt is rotateUntil, for what is "boundary", or for the writes of the image
// engine, of which the n-th is not done. at is n, or a boundary's name.
func (b *bed) dieAt(what string, at any, args ...string) string {
	b.t.Helper()
	program, err := mortal()
	must(b.t, err)
	r := b.begin(program, []string{killAt[what] + "=" + fmt.Sprint(at)}, args...).wait()
	if r.Exit == 0 {
		return ""
	}
	_, after, found := strings.Cut(r.Stderr, "killed at "+what+" ")
	number, place, _ := strings.Cut(strings.TrimSpace(after), ": ")
	if is := fmt.Sprint(at); !found || r.Exit != -1 || number != is && place != is {
		b.t.Fatalf("want a run that is killed or succeeds, got %v", r)
	}
	return place
}

// A promise is what must be true of a guest's snapshots at any time during a run
// and after it.
type promise struct {
	kept    states // these stay
	dropped states // these may go, but as long as they are listed they are whole
}

// survivors reads the states of all snapshots and asks plan which of them a run
// with these arguments drops.
func (b *bed) survivors(dom string, args ...string) promise {
	b.t.Helper()
	var plan report
	b.rotate(append([]string{"plan", "--output=json", dom}, args...)...).wantExit(b.t, 0).decode(b.t, &plan)
	p := promise{b.keptStates(dom), states{}}
	for _, s := range plan.Domains[0].Steps {
		if state, there := p.kept[s.Snapshot]; there && s.Op == "drop-metadata" {
			p.dropped[s.Snapshot] = state
			delete(p.kept, s.Snapshot)
		}
	}
	return p
}

// wantSurvivors fails the test unless the promise is kept, and the guest's disks
// hold a prefix of its writes.
func (b *bed) wantSurvivors(dom string, p promise) {
	b.t.Helper()
	now := b.keptStates(dom)
	for name, state := range p.kept {
		if !maps.Equal(now[name], state) {
			b.t.Errorf("%s, snapshot %s: state changed from %v to %v", dom, name, state, now[name])
		}
	}
	for name, state := range p.dropped {
		if is, listed := now[name]; listed && !maps.Equal(is, state) {
			b.t.Errorf("%s, snapshot %s is still listed: state changed from %v to %v", dom, name, state, is)
		}
	}
	b.checkGuest(dom)
}

// recover is the next run after a crash: it must succeed, keep what it says
// that it keeps, and leave chains of so many layers with nothing lying about.
func (b *bed) recover(dom string, layers int, args ...string) report {
	b.t.Helper()
	kept := b.survivors(dom, args...)
	var r report
	b.rotate(append([]string{"run", "--output=json", dom}, args...)...).wantExit(b.t, 0).decode(b.t, &r)
	b.wantSurvivors(dom, kept)
	b.wantTidy(dom, layers)
	return r
}

// wantTidy checks that nothing is left over and that libvirt's list of
// snapshots is the chain.
func (b *bed) wantTidy(dom string, layers int) {
	b.t.Helper()
	b.noLeftovers(dom)
	snapshots := b.snapshots(dom)
	if len(snapshots) != layers-1 {
		b.t.Errorf("%s: %d snapshots for %d layers: %v", dom, len(snapshots), layers, snapshots)
	}
	for i, s := range snapshots {
		if i > 0 && s.Parent != snapshots[i-1].Name {
			b.t.Errorf("%s: parent of %s is %q", dom, s.Name, s.Parent)
		}
	}
	for _, d := range b.disks(dom) {
		if have, want := b.overlaysOf(d), overlaysOf(snapshots, d.Target); !slices.Equal(have, want) || len(have) != layers-1 {
			b.t.Errorf("%s %s: chain of %d overlays %q, snapshots name %q; want %d", dom, d.Target, len(have), have, want, layers-1)
		}
	}
	if r := b.rotate("doctor").wantExit(b.t, 0); !strings.Contains(r.Stdout, "nothing found") {
		b.t.Errorf("doctor: %v", r)
	}
}

// overlays are the layers above the base, lowest first.
func (b *bed) overlays(dom, target string) []string {
	b.t.Helper()
	return b.overlaysOf(b.disk(dom, target))
}

// overlaysOf is overlays without a question to libvirt.
func (b *bed) overlaysOf(d guest.Disk) []string {
	b.t.Helper()
	list := []string{}
	for _, l := range b.chainOf(d) {
		list = append(list, l.Path)
	}
	slices.Reverse(list)
	return list[1:]
}

func overlaysOf(snapshots []guest.Snapshot, target string) []string {
	list := []string{}
	for _, s := range snapshots {
		for _, d := range s.Disks {
			if d.Target == target {
				list = append(list, d.Overlay)
			}
		}
	}
	return list
}

// logsOnFailure shows what QEMU and libvirtd have to say to a test that failed.
func (b *bed) logsOnFailure(dom string) {
	b.t.Cleanup(func() {
		if !b.t.Failed() {
			return
		}
		for _, file := range []string{b.path("log", "qemu", dom+".log"), b.path("log", "libvirt", "qemu", dom+".log"), b.path("log", "libvirtd.log")} {
			if text, err := os.ReadFile(file); err == nil {
				b.t.Logf("%s ends in:\n%s", file, text[max(0, len(text)-800):])
			}
		}
	})
}

// kills is how often a test kills at random: VIRT_ROTATE_KILLS, or a few times.
func kills(t *testing.T) int {
	t.Helper()
	return times(t, "VIRT_ROTATE_KILLS", often(5, 3))
}

// times is how often something is done: what the variable of the environment says, or few.
func times(t *testing.T, variable string, few int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	must(t, err)
	return n
}

// A boundaryCase is a rotation that is killed at each of its boundaries, or of its
// engine's writes.
type boundaryCase struct {
	name   string
	bed    func(*testing.T) *bed
	disks  []guest.DiskSpec
	last   int      // snapshots that the policy keeps
	taken  int      // snapshots to take before each killed run, with another policy
	args   []string // of the killed run
	places int      // there must be at least so many
	writes bool     // the places are the engine's writes, not boundaries
	step   int      // 0, or one in so many places is tried unless VIRT_ROTATE_KILLS is set
	graft  bool     // the policy has method = "graft"
	again  string   // a boundary: the run is killed there, and the next one at each of its own
	beds   int      // 0, or so many share the places: they are many, and run side by side
}

// kind is what the places are: "boundary" or "write".
func (c *boundaryCase) kind() string {
	if c.writes {
		return "write"
	}
	return "boundary"
}

// stride is how many places it goes on by at a time.
func (c *boundaryCase) stride() int { return sparse(max(c.step, 1)) }

// turn counts the kills over all beds, from 0 on: what is done after a kill goes by that, not by
// the place, whose number leaves the same remainder each time if the stride is a multiple.
func (c *boundaryCase) turn(n int) int { return (n - 1) / c.stride() }

// everywhere sets guests up and has kill called with 1, 2 … until a run ends before
// it is killed. kill returns the name of the place, and "" then.
func (c *boundaryCase) everywhere(t *testing.T, kill func(b *bed, n int) string) {
	t.Parallel()
	step := c.stride()
	ends := make([]int, max(c.beds, 1)) // of each bed the first n that is no place
	for i := range ends {
		t.Run("bed "+strconv.Itoa(i+1), func(t *testing.T) {
			t.Parallel()
			ends[i] = c.every(t, 1+i*step, step*len(ends), kill)
		})
	}
	t.Cleanup(func() { // the beds are done then
		n := slices.Min(ends)
		t.Logf("killed at one in %d of the first %d", step, n-1)
		if n-1 < c.places && !t.Failed() {
			t.Errorf("%d places, want at least %d: is the hook broken?", n-1, c.places)
		}
	})
}

// every kills at place n and each step-th one after it, and returns the first that is none.
func (c *boundaryCase) every(t *testing.T, n, step int, kill func(b *bed, n int) string) int {
	t.Helper()
	b := c.bed(t)
	b.logsOnFailure("g1")
	b.writePolicy(c.policy(max(c.last, c.taken)))
	b.boot(guest.Spec{Name: "g1", Disks: c.disks})
	b.rotations("g1", max(c.last, c.taken))
	for place := kill(b, n); place != "" && !t.Failed(); place = kill(b, n) {
		t.Logf("%s %d: %s", c.kind(), n, place)
		n += step
	}
	b.restart("g1")
	return n
}

var boundaryCases = []boundaryCase{
	{name: "one disk", bed: newBed, disks: make([]guest.DiskSpec, 1), last: 2, args: []string{"--now"}, places: 20, step: 2},
	{name: "two disks", bed: newDaemonBed, disks: []guest.DiskSpec{{}, {Format: "raw"}}, last: 2, args: []string{"--now"}, places: 28, beds: 2, step: 3},
	{name: "keep nothing", bed: newDaemonBed, disks: []guest.DiskSpec{{}, {Format: "raw"}}, taken: 2, places: 20, beds: 2, step: 2},
	{name: "graft", bed: onXFS, last: 2, args: []string{"--now"}, places: 30, graft: true, step: 10},
	{name: "graft, two disks", bed: onXFSDaemon, disks: []guest.DiskSpec{{}, {Format: "raw"}}, last: 2, args: []string{"--now"}, places: 40, graft: true, step: 13},
	{name: "graft, and in the run after it", bed: onXFS, last: 2, args: []string{"--now"}, places: 20, graft: true, step: 12, again: "ready to move"},
}

func (c *boundaryCase) policy(last int) string {
	more := ""
	if c.graft {
		more = "method = \"graft\""
	}
	return keep(strconv.Itoa(last), more)
}

func TestKillAtEveryBoundary(t *testing.T) {
	t.Parallel()
	for _, c := range boundaryCases {
		t.Run(c.name, func(t *testing.T) { c.everywhere(t, c.killAt) })
	}
}

// killAt kills a run at boundary n and lets the next one recover.
func (c *boundaryCase) killAt(b *bed, n int) string {
	b.t.Helper()
	if c.taken > 0 {
		b.writePolicy(c.policy(c.taken))
		b.rotations("g1", c.taken)
		b.writePolicy(c.policy(c.last))
	}
	b.waitWrites("g1", 30)
	b.halfWrittenIntent()
	if c.graft && n == 1 { // as in all that follow
		b.wantGrafts(c.args...)
	}
	kept := b.survivors("g1", c.args...)
	killed := append([]string{"run"}, c.args...)
	if c.again != "" {
		b.dieAt("boundary", c.again, killed...)
		killed = []string{"run", "--no-snapshot"}
	}
	place := b.rotateUntil(n, killed...)
	b.wantSurvivors("g1", kept)
	next := []string{"--no-snapshot"}
	if c.turn(n)%4 < 2 { // with two beds both ways in each
		next = []string{"--now"}
	}
	b.recover("g1", c.last+1, next...)
	if c.graft {
		b.noOtherImages("g1")
	}
	return place
}

// halfWrittenIntent puts into the journal what a run leaves that is killed
// while it writes an intent.
func (b *bed) halfWrittenIntent() {
	b.t.Helper()
	must(b.t, os.WriteFile(b.path("state", "intents", ".virt-rotate-1.tmp"), []byte("{"), 0o600))
}
