package integration_test

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// A hand is what somebody does by hand, or libvirt at his word, to a guest between two
// runs. docs/hands.md tells of each.
type hand struct {
	name string // of its line in docs/hands.md
	off  bool   // the guest is off; else it runs
	// do is a shell script; in it D is the domain, DIR the directory of its images, S1 S2
	// S3 are its snapshots, BASE L1 L2 L3 its layers, L3 the active one.
	do   string
	want string // what the next run does: goes on, waits, or refuses CODE
	// lost are the snapshots whose state is gone by what was done itself.
	lost  string
	blind string // those of which nobody can see that the state is another; docs/hands.md says so
	out   string // the way out, if it does not go on by itself; a script like do
	given string // snapshots that the way out names, and gives up
	found string // codes that doctor tells in the end, of what is no fault
	old   bool   // libvirt refuses it, before 9.9
	quick bool   // one of those that every test does
}

func (h *hand) id() string { return h.name + ", " + h.state() }

func (h *hand) state() string {
	if h.off {
		return "off"
	}
	return "running"
}

// handPolicy keeps three snapshots: the first goes in the run after what was done.
const handPolicy = `[policy.p]
domains  = ["h*"]
every    = "1s"
keep     = { last = 3 }
min_free = "0%"`

// handDevices are a bus on which disks come and go, and a CD drive.
const handDevices = `<controller type='scsi' model='virtio-scsi'/>
<disk type='file' device='cdrom'><target dev='hdd' bus='ide'/><readonly/><address type='drive' controller='0' bus='1' unit='1'/></disk>`

// defineWith defines the domain $D again, with the image $1 as its disk and nothing said
// about what is below.
const defineWith = `#!/bin/sh
virsh dumpxml $D --inactive | awk -v new="$1" -v old="$L3" '
/<backingStore[^\/]*>/ { depth++ }
depth == 0 && !/<backingStore\/>/ { i = index($0, old); if (i) $0 = substr($0, 1, i-1) new substr($0, i+length(old)); print }
/<\/backingStore>/ { depth-- }' > define-with.xml
virsh define define-with.xml`

// batchSize is how many guests share a libvirtd.
const batchSize = 6

// Whatever is done by hand between two runs: the next one goes on, waits or refuses, as
// docs/hands.md says; no state is lost or handed out wrong; and the way out leads on.
func TestWhatIsDoneByHand(t *testing.T) {
	t.Parallel()
	chosen := handsToTry()
	for i := 0; i < len(chosen); i += batchSize {
		some := chosen[i:min(i+batchSize, len(chosen))]
		t.Run(fmt.Sprintf("%d-%d", i+1, i+len(some)), func(t *testing.T) {
			t.Parallel()
			tryHands(t, some)
		})
	}
}

// handsToTry are all of them if VIRT_ROTATE_HANDS is "all", those whose names have what it
// says, or some.
func handsToTry() []hand {
	only := os.Getenv("VIRT_ROTATE_HANDS")
	return slices.DeleteFunc(allHands(), func(h hand) bool {
		return only == "" && !h.quick || only != "" && only != "all" && !strings.Contains(h.id(), only)
	})
}

func allHands() []hand {
	return slices.Concat(snapshotHands, jobHands, deviceHands, configHands, imageHands)
}

// A handGuest is the guest of one hand.
type handGuest struct {
	*bed
	hand
	dom    string
	dir    string
	env    []string
	listed []string          // our snapshots at the end of the last run
	states map[string]string // hash of each state that must not get lost, by snapshot
	dead   map[string]bool   // snapshots whose states are gone by what was done
}

func tryHands(t *testing.T, hands []hand) {
	b := newDaemonBed(t)
	b.writePolicy(handPolicy)
	b.wrapProgram()
	var guests []*handGuest
	for i := range hands {
		guests = append(guests, b.handGuest(fmt.Sprintf("h%d", i), hands[i]))
	}
	b.startAll(guests)
	for range 3 {
		b.rotate("run", "--now").wantExit(t, 0)
		b.allWrite(guests)
	}
	for _, g := range guests {
		g.begin()
	}
	b.runAll(guests, (*handGuest).wantOutcome)
	for _, g := range guests {
		g.wantStates("a run")
		g.wayOut()
	}
	b.allWrite(guests)
	b.runAll(guests, (*handGuest).wantGoesOn)
	b.startAll(guests)
	b.runAll(guests, (*handGuest).wantGoesOn)
	for _, g := range guests {
		g.wantStates("further runs")
		g.wantSound()
		g.destroy(g.dom)
	}
	b.startAll(guests)
	for _, g := range guests {
		g.checkWrites()
	}
}

// startAll sees to it that all guests run, and write.
func (b *bed) startAll(guests []*handGuest) {
	b.t.Helper()
	for _, g := range guests {
		switch g.domState(g.dom) {
		case "shut off":
			must(b.t, b.host.Start(b.t.Context(), g.dom))
		case "paused":
			b.virsh("resume", g.dom)
		}
	}
	b.allWrite(guests)
}

// allWrite waits until all guests have written more.
func (b *bed) allWrite(guests []*handGuest) {
	b.t.Helper()
	for _, g := range guests {
		if g.domState(g.dom) == "running" {
			b.waitWrites(g.dom, 10)
		}
	}
}

// wrapProgram puts a virt-rotate into a directory for programs that knows its policy.
func (b *bed) wrapProgram() {
	b.t.Helper()
	program, err := binary()
	must(b.t, err)
	must(b.t, os.MkdirAll(b.path("bin"), 0o755))
	text := fmt.Sprintf("#!/bin/sh\nexec %s --policy %s \"$@\"\n", program, b.policy)
	must(b.t, os.WriteFile(b.path("bin", "virt-rotate"), []byte(text), 0o755))
	must(b.t, os.WriteFile(b.path("bin", "define-with"), []byte(defineWith), 0o755))
}

func (b *bed) handGuest(dom string, h hand) *handGuest {
	b.t.Helper()
	g := &handGuest{bed: b, hand: h, dom: dom, dir: b.path("images", dom), states: map[string]string{}, dead: map[string]bool{}}
	must(b.t, os.MkdirAll(g.dir, 0o755))
	b.define(guest.Spec{Name: dom, Params: guest.Params{Pause: 2}, Devices: handDevices, Disks: []guest.DiskSpec{{Path: g.dir + "/disk.qcow2", Size: 2 << 20}}})
	return g
}

// begin notes what is there, and does what is to be done.
func (g *handGuest) begin() {
	g.t.Helper()
	g.listed = g.snapshotNames(g.dom)
	chain := g.chain(g.dom, "vda") // active first
	g.env = []string{"D=" + g.dom, "STATE=" + g.path("state"), "DIR=" + g.dir, "BASE=" + chain[3].Path, "L1=" + chain[2].Path, "L2=" + chain[1].Path, "L3=" + chain[0].Path}
	for i, name := range g.listed {
		g.env = append(g.env, fmt.Sprintf("S%d=%s", i+1, name))
		g.states[name] = g.hash(chain[3-i].Path)
	}
	for _, n := range strings.Fields(g.blind) {
		delete(g.states, g.named(n))
		g.dead[g.named(n)] = true
	}
	if g.off {
		g.destroy(g.dom)
	}
	if g.old && g.libvirtReverts() {
		g.do = "true"
	}
	if out, err := g.sh(g.do); err != nil {
		g.t.Errorf("%s: %v\n%s", g.id(), err, out)
	}
	for _, n := range strings.Fields(g.lost) {
		g.dead[g.named(n)] = true
	}
	g.wantStates("what was done")
}

// sh runs a script as an administrator would type it.
func (g *handGuest) sh(script string) (string, error) {
	cmd := g.host.Command(context.Background(), "sh", "-euc", script)
	cmd.Env = append(cmd.Env, g.env...)
	cmd.Env = append(cmd.Env, "LIBVIRT_DEFAULT_URI="+g.host.URI(), "PATH="+g.path("bin")+":"+os.Getenv("PATH"))
	cmd.Dir = g.dir
	out, err := cmd.CombinedOutput()
	if os.Getenv("VIRT_ROTATE_HANDS") != "" && len(out) > 0 {
		g.t.Logf("%s: %s", g.id(), out)
	}
	return string(out), err
}

// named is the snapshot that the hands call S1, S2 or S3.
func (g *handGuest) named(variable string) string {
	for _, e := range g.env {
		if name, ok := strings.CutPrefix(e, variable+"="); ok {
			return name
		}
	}
	g.t.Fatalf("%s: nothing is called %s", g.id(), variable)
	return ""
}

// hash is that of what a guest reads on an image; "" if it cannot be read.
func (g *handGuest) hash(path string) string {
	s, _ := guest.ReadState(g.t.Context(), path, "qcow2", g.host.Spec(g.dom).Params) // what is in it does not matter here
	return s.SHA256
}

// onDisk tells whether any image of the guest shows that state.
func (g *handGuest) onDisk(hash string) bool {
	files, err := filepath.Glob(g.dir + "/*")
	must(g.t, err)
	return slices.ContainsFunc(files, func(f string) bool { return isQcow2(f) && g.hash(f) == hash })
}

func isQcow2(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var magic [4]byte
	_, err = f.ReadAt(magic[:], 0)
	return err == nil && string(magic[:]) == "QFI\xfb"
}

// wantStates fails the test if a state is lost, or handed out wrong.
func (g *handGuest) wantStates(after string) {
	g.t.Helper()
	listed := g.snapshotNames(g.dom)
	for name, hash := range g.states {
		handed := ""
		if slices.Contains(listed, name) {
			handed = g.exported(name)
		}
		switch {
		case handed != "" && handed != hash:
			g.t.Errorf("%s: after %s %s is handed out in another state", g.id(), after, name)
		case handed == "" && !g.dead[name] && !g.onDisk(hash):
			g.t.Errorf("%s: after %s the state of %s is lost", g.id(), after, name)
		case handed != "" && g.dead[name]:
			g.t.Errorf("%s: after %s the state of %s is there", g.id(), after, name)
		}
	}
}

// exported is the hash of a snapshot that virt-rotate hands out; "" if it does not.
func (g *handGuest) exported(name string) string {
	r := g.rotate("export", g.dom, name, "--disk", "vda", "-o", "-")
	if r.Exit != 0 {
		g.t.Logf("%s: export of %s: %s", g.id(), name, strings.TrimSpace(r.Stderr))
		return ""
	}
	return fmt.Sprintf("%x", sha256.Sum256([]byte(r.Stdout)))
}

// runAll rotates all guests in one run.
func (b *bed) runAll(guests []*handGuest, judge func(*handGuest, string)) {
	b.t.Helper()
	var r report
	b.rotate("run", "--now", "--output=json").decode(b.t, &r)
	for _, g := range guests {
		got := "is not there"
		for _, d := range r.Domains {
			if d.Name == g.dom {
				var codes []string
				for _, x := range d.Refused {
					b.t.Logf("%s: %s %s: %s", g.id(), x.Code, x.Path, x.Detail)
					codes = append(codes, x.Code)
				}
				slices.Sort(codes)
				got = outcome(d.Error, d.Waiting, slices.Compact(codes), len(d.Steps))
				if d.Waiting != "" {
					b.t.Logf("%s: waits: %s", g.id(), d.Waiting)
				}
			}
		}
		judge(g, got)
		g.retain()
	}
}

// outcome is what a run came to, in the words of docs/hands.md.
func outcome(failure, waiting string, refused []string, steps int) string {
	switch {
	case failure != "":
		return "fails: " + failure
	case len(refused) > 0:
		return "refuses " + strings.Join(refused, ", ")
	case steps == 0 && waiting != "":
		return "waits"
	}
	return "goes on"
}

func (g *handGuest) wantOutcome(got string) {
	g.t.Helper()
	if got != g.want {
		g.t.Errorf("%s: the next run %s, want: %s", g.id(), got, g.want)
	}
}

func (g *handGuest) wantGoesOn(got string) {
	g.t.Helper()
	if got != "goes on" && (got != "waits" || g.domState(g.dom) != "shut off") {
		g.t.Errorf("%s: a further run %s", g.id(), got)
	}
}

// retain takes up the states of new snapshots, and lets go of those that the policy does
// not keep: all but the last three.
func (g *handGuest) retain() {
	g.t.Helper()
	snaps := g.snapshots(g.dom)
	slices.SortStableFunc(snaps, func(x, y guest.Snapshot) int {
		return cmp.Or(cmp.Compare(x.Created, y.Created), strings.Compare(x.Name, y.Name))
	})
	var now []string
	for _, s := range snaps {
		if !strings.HasPrefix(s.Name, "p-") || len(s.Disks) == 0 {
			continue
		}
		now = append(now, s.Name)
		if g.states[s.Name] == "" && !g.dead[s.Name] {
			g.states[s.Name] = g.newState(s)
		}
	}
	all := slices.Concat(g.listed, slices.DeleteFunc(slices.Clone(now), func(s string) bool { return slices.Contains(g.listed, s) }))
	for i := range max(len(all)-3, 0) {
		if !slices.Contains(now, all[i]) {
			delete(g.states, all[i])
		}
	}
	g.listed = now
}

// newState is the hash of what a snapshot that was just taken holds.
func (g *handGuest) newState(s guest.Snapshot) string {
	g.t.Helper()
	for _, d := range s.Disks {
		if d.Target == "vda" {
			layer, err := guest.StateLayer(g.t.Context(), d)
			must(g.t, err)
			return g.hash(layer.Path)
		}
	}
	return ""
}

// wayOut does what leads out, if there is something to lead out of.
func (g *handGuest) wayOut() {
	g.t.Helper()
	for _, n := range strings.Fields(g.given) {
		delete(g.states, g.named(n))
	}
	if g.out != "" {
		if out, err := g.sh(g.out); err != nil {
			g.t.Errorf("%s: the way out: %v\n%s", g.id(), err, out)
		}
		g.wantStates("the way out")
	}
}

// wantSound sees that doctor finds nothing but what is said to remain.
func (g *handGuest) wantSound() {
	g.t.Helper()
	var out struct {
		Findings []struct {
			Code, Detail string
			Note         bool
		}
	}
	g.rotate("doctor", "--output=json", g.dom).decode(g.t, &out)
	for _, f := range out.Findings {
		if !f.Note && !slices.Contains(strings.Fields(g.found), f.Code) {
			g.t.Errorf("%s: in the end doctor tells %s: %s", g.id(), f.Code, f.Detail)
		}
	}
}

// checkWrites sees that the guest, started afresh, has all that it wrote.
func (g *handGuest) checkWrites() {
	g.t.Helper()
	if _, err := g.host.CheckGuest(g.t.Context(), g.dom); err != nil {
		g.t.Errorf("%s: %v", g.id(), err)
	}
}

// What docs/hands.md says of each is what the test wants.
func TestTheDocumentTellsWhatHandsDo(t *testing.T) {
	t.Parallel()
	told := handsTold(t)
	for _, h := range allHands() {
		if got, ok := told[h.id()]; !ok || got != h.want {
			t.Errorf("docs/hands.md says %q of %q, want %q", got, h.id(), h.want)
		}
		delete(told, h.id())
	}
	for id := range told {
		t.Errorf("docs/hands.md tells of %q, which nothing tries", id)
	}
}

// handsTold reads the tables of docs/hands.md: what is done, the state of the guest, what
// the next run does, what then.
func handsTold(t *testing.T) map[string]string {
	text, err := os.ReadFile("../docs/hands.md")
	must(t, err)
	told := map[string]string{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if len(cells) != 4 || strings.HasPrefix(cells[0], "---") || strings.TrimSpace(cells[1]) == "guest" {
			continue
		}
		for state := range strings.SplitSeq(strings.TrimSpace(cells[1]), "/") {
			told[strings.ReplaceAll(strings.TrimSpace(cells[0]), "`", "")+", "+state] = strings.ReplaceAll(strings.TrimSpace(cells[2]), "`", "")
		}
	}
	return told
}
