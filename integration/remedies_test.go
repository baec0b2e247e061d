package integration_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// An ill is a situation for which doctor prints a remedy.
type ill struct {
	code  string // that doctor tells
	hand         // how it comes about; want and out do not count
	vague bool   // only to look at: the remedy need not change anything
}

// ills are brought about, and what doctor prints is typed in literally.
var ills = []ill{
	{code: "managed-save", hand: hand{do: `virsh managedsave $D`}},
	{code: "internal-snapshots", hand: hand{do: `virsh snapshot-create-as $D mine`}},
	{code: "internal-snapshots", hand: hand{off: true, do: `qemu-img snapshot -c NAME $L3`}},
	{code: "stuck-job", hand: hand{do: `virsh blockcopy $D vda $DIR/copy.qcow2 --format qcow2 --transient-job; sleep 1`}},
	{code: "foreign-overlay", hand: hand{do: `virsh snapshot-create-as $D mine --disk-only --no-metadata --diskspec vda,file=$DIR/mine.qcow2`}},
	{code: "foreign-overlay", hand: hand{off: true, do: `virsh snapshot-create-as $D mine --disk-only --no-metadata --diskspec vda,file=$DIR/mine.qcow2`}},
	{code: "foreign-overlay", hand: hand{do: `virsh blockcopy $D vda $DIR/copy.qcow2 --format qcow2 --shallow --transient-job --wait --pivot`}},
	{code: "lost-snapshot", hand: hand{lost: "S3", do: `virsh blockcommit $D vda --active --shallow --pivot --wait`}},
	{code: "stale-metadata", hand: hand{lost: "S1", do: `virsh blockcommit $D vda --base $BASE --top $L1 --wait`}},
	{code: "stale-metadata", hand: hand{lost: "S1", do: `virsh blockcommit $D vda --base $BASE --top $L1 --delete --wait`}},
	{code: "stale-metadata", hand: hand{do: `virsh blockpull $D vda --base $L1 --wait`}},
	{code: "unlisted-overlay", hand: hand{do: `virsh snapshot-delete $D $S2 --metadata`}},
	{code: "missing-file", hand: hand{lost: "S2 S3", do: `virsh blockpull $D vda --wait; rm $L1`}},
	{code: "time-in-future", hand: hand{do: `virsh snapshot-dumpxml $D $S3 > s.xml
sed -i 's,<creationTime>.*<,<creationTime>4000000000<,' s.xml; virsh snapshot-create $D s.xml --redefine --current`}},
	{code: "readable-by-others", hand: hand{do: `chmod 644 $L2`}},
	{code: "live-only-disk", hand: hand{do: `qemu-img create -q -f qcow2 $DIR/more.qcow2 2M
virsh attach-disk $D $DIR/more.qcow2 sda --targetbus scsi --driver qemu --subdriver qcow2 --live`}},
	{code: "transient", hand: hand{do: `virsh undefine $D --snapshots-metadata`}},
	{code: "corrupt", hand: hand{off: true, do: `printf '\002' | dd of=$L3 bs=1 seek=79 conv=notrunc status=none`}, vague: true},
	{code: "configuration-differs", hand: hand{do: `define-with $BASE`}, vague: true},
	{code: "intent", hand: hand{do: `mkdir -p $STATE/intents; echo nonsense > $STATE/intents/$(virsh domuuid $D | head -1).json`}, vague: true},
	{code: "volume-disk", hand: hand{off: true, do: `virsh pool-define-as store dir --target $DIR
virsh dumpxml $D --inactive | sed -z "s#type='file' device='disk'>\(\n *<driver name='qemu' type='qcow2'/>\n *\)<source file='$L3'/>#type='volume' device='disk'>\1<source pool='store' volume='${L3##*/}'/>#" > v.xml
virsh define v.xml`}},
}

// unprinted are the codes whose remedies print no command that could cost a state.
var unprinted = map[string]string{
	"checkpoints": "to start the guest; the checkpoints are the backup program's, and no state of a snapshot", "metadata": "it prints no command",
	"two-policies": "it prints no command", "own-policy": "it prints no command", "local-locks": "it prints no command",
	"remote": "words", "state": "virsh domstate looks", "block-job": "is stuck-job as a finding", "network-disk": "words: the policy",
	"disk-type": "words: the policy", "shareable-disk": "words: the policy", "transient-disk": "words: the policy",
	"encrypted": "words: the policy", "data-file": "words", "format": "words", "unreadable": "words", "chain-mismatch": "is wrong-backing-file as a finding",
	"no-disk": "words: the policy", "overlay-dir": "words: the policy", "name-too-long": "words: the policy", "chain-too-long": "virt-rotate tree looks",
	"no-space": "words", "size": "words", "io-error": "virsh resume lets the guest go on: TestAGuestThatIsOutOfSpaceGoesOnByTheRemedy",
	"restart-needed": "virt-rotate run: TestAGuestWhosePivotLibvirtMissedLosesNoWrite does it", "foreign-snapshot": "virt-rotate delete --foreign names the snapshot that goes: TestDeletingASnapshotOfSomebodyElse does it",
	"stopped-in-pivot": "names docs/recovery.md", "leftover": "names docs/recovery.md", "shared-disk": "words", "method": "words: the policy",
	"no-guest-agent": "words", "hook": "words", "fault": "virsh dumpxml and virt-rotate plan look", "unreadable-image": "words", "comma-in-name": "words",
	"in-use": "words", "other-host": "virt-rotate adopt and undefine are for a person to choose from: TestAGuestThatIsDefinedTwiceHasOneOwner", "unheard-host": "virt-rotate fleet forget names the host: TestAHostThatIsForgottenIsNotWaitedFor", "wrong-backing-file": "names docs/recovery.md", "orphan": "qemu-img info and map look", "apparmor": "apparmor_parser touches no image",
	"nvram-not-covered": "words", "tpm-not-covered": "words", "disk-taken-out": "words; it is no snapshot's", "large-storage": "words", "of-no-use": "words; it is no snapshot's",
	"pinned": "virt-rotate unpin leaves it to the person who deletes: TestSnapshotsByHandOfARealGuest does it", "name-taken": "words", "memory": "words",
	"adoption":  "virt-rotate adopt: TestKillAtEveryBoundaryOfAnAdoption does it",
	"migration": "virt-rotate run: TestAMigrationThatIsKilledIsFinished does it", "not-shared": "words", "destination": "words",
	"not-root": "words", "unfinished-run": "virt-rotate run: all tests of crashes do it",
}

// Whatever doctor prints is typed in as it stands: no state goes but those of snapshots
// that the command itself names.
func TestNoPrintedRemedyCostsAState(t *testing.T) {
	t.Parallel()
	chosen := few(ills, len(ills)/2)
	for i := 0; i < len(chosen); i += batchSize {
		some := chosen[i:min(i+batchSize, len(chosen))]
		t.Run(fmt.Sprintf("%d-%d", i+1, i+len(some)), func(t *testing.T) {
			t.Parallel()
			followAll(t, some)
		})
	}
}

func followAll(t *testing.T, ills []ill) {
	t.Helper()
	b := newDaemonBed(t)
	b.writePolicy(handPolicy)
	b.wrapProgram()
	var guests []*handGuest
	for i := range ills {
		ills[i].name = fmt.Sprintf("%s %d", ills[i].code, i)
		guests = append(guests, b.handGuest(fmt.Sprintf("h%d", i), ills[i].hand))
	}
	b.startAll(guests)
	for range 3 {
		b.rotate("run", "--now").wantExit(t, 0)
		b.allWrite(guests)
	}
	for i, g := range guests {
		g.begin()
		g.follow(&ills[i])
	}
}

// follow types in what doctor prints.
func (g *handGuest) follow(i *ill) {
	g.t.Helper()
	remedy := g.remedy(i.code)
	commands := g.choose(commandsIn(remedy, g.dom))
	if len(commands) == 0 && !i.vague {
		g.t.Errorf("%s: no command in the remedy: %s", g.id(), remedy)
	}
	for _, c := range commands {
		g.typeIn(c)
	}
	g.wantStates("the remedy")
}

// choose runs the comparison in front of commands for two cases, and returns those for the
// case that it finds.
func (g *handGuest) choose(commands []string) []string {
	g.t.Helper()
	i := slices.Index(commands, elseBranch)
	if i < 0 || !strings.HasPrefix(commands[0], "qemu-img compare") {
		return commands
	}
	switch out, err := g.sh(commands[0]); {
	case err == nil:
		return commands[1:i]
	case isExit(err, 1): // they differ
		return commands[i+1:]
	default:
		g.t.Errorf("%s: %s: %v: %s", g.id(), commands[0], err, out)
		return nil
	}
}

// typeIn runs a command as it is printed. The snapshots that it names may go.
func (g *handGuest) typeIn(command string) {
	g.t.Helper()
	out, err := g.sh(strings.ReplaceAll(command, " FILE", " kept.qcow2"))
	if isExit(err, 127) {
		g.t.Errorf("%s: %s: %v: %s", g.id(), command, err, out)
	}
	g.t.Logf("%s: %s: %v", g.id(), command, err)
	for name := range g.states {
		if strings.Contains(command, "--forget "+name) && !g.onDisk(g.states[name]) {
			g.t.Logf("%s: %s is given up", g.id(), name)
			delete(g.states, name)
		}
	}
}

func isExit(err error, status int) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.ExitCode() == status
}

// remedy is what doctor says about a code.
func (g *handGuest) remedy(code string) string {
	g.t.Helper()
	var out struct {
		Findings []struct{ Code, Detail, Remedy string }
	}
	g.rotate("doctor", "--output=json", g.dom).decode(g.t, &out)
	for _, f := range out.Findings {
		if f.Code == code {
			return f.Remedy
		}
	}
	g.t.Errorf("%s: doctor does not tell %s: %+v", g.id(), code, out.Findings)
	return ""
}

// elseBranch stands between the commands for two cases: those after it are for the case
// that a comparison before it finds a difference.
const elseBranch = "else"

var (
	commandStart = regexp.MustCompile(`^(virsh|virt-rotate|qemu-img|chmod|mv)$`)
	argument     = regexp.MustCompile(`^(-.*|/.*|>|FILE|NAME|DISK\.xml|domain\.xml|image|qcow2|raw|vd[a-z]|sd[a-z]|[0-9]{4}|p-20.*|mine|store)$`)
)

// commandsIn finds the commands in a text for people: a program, what it is to do, and
// arguments up to a mark or another word.
func commandsIn(text, domain string) []string {
	var found []string
	var now []string
	end := func() {
		if len(now) > 1 {
			found = append(found, strings.Join(now, " "))
		}
		now = nil
	}
	for word := range strings.FieldsSeq(text) {
		if word == "not," {
			end()
			found = append(found, elseBranch)
		}
		bare := strings.Trim(word, "();,:.")
		switch {
		case commandStart.MatchString(bare):
			end()
			now = []string{bare}
		case len(now) == 1 || len(now) > 1 && (argument.MatchString(bare) || bare == domain || len(now) == 2 && now[1] == "image"):
			now = append(now, bare)
		default:
			end()
		}
		if now != nil && strings.ContainsAny(word[len(word)-1:], ");,:.") {
			end()
		}
	}
	end()
	return found
}

func TestCommandsAreFoundInWords(t *testing.T) {
	for text, want := range map[string][]string{
		"virsh start web goes on from the saved state; if that is not needed: virsh managedsave-remove web": {"virsh start web", "virsh managedsave-remove web"},
		"virsh blockjob web vda --pivot, or --abort":                                                        {"virsh blockjob web vda --pivot"},
		"if so: (qemu-img compare -U /a /b). If not, it: virt-rotate doctor --forget p-20 web":              {"qemu-img compare -U /a /b", elseBranch, "virt-rotate doctor --forget p-20 web"},
		"look at it: virt-rotate image check /a":                                                            {"virt-rotate image check /a"},
		"edit it (virsh edit), before":                                                                      {"virsh edit"},
	} {
		if got := commandsIn(text, "web"); !slices.Equal(got, want) {
			t.Errorf("%s: %q", text, got)
		}
	}
}

// Each code is one whose remedy is tried, or one of which it is said why not.
func TestEveryCodeHasItsRemedyTriedOrNeedsNone(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, file := range []string{"../rotate/host/codes.go", "../rotate/decide/diagnose.go"} {
		text, err := os.ReadFile(file)
		must(t, err)
		for _, m := range regexp.MustCompile(`(?m)^\t(?:Code|Find)\w+\s*= "([a-z-]+)"`).FindAllSubmatch(text, -1) {
			known[string(m[1])] = true
		}
	}
	if len(known) < 40 {
		t.Fatalf("%d codes: are they written in another way now?", len(known))
	}
	for code := range known {
		tried := slices.ContainsFunc(ills, func(i ill) bool { return i.code == code })
		if tried == (unprinted[code] != "") {
			t.Errorf("%s: tried %v, and %q", code, tried, unprinted[code])
		}
	}
	for code := range unprinted {
		if !known[code] {
			t.Errorf("%s is no code", code)
		}
	}
}

// looking are the commands of docs/recovery.md that change nothing, or nothing that a
// snapshot keeps, with what to put in place of their capitals; "" for those that are parts
// of a procedure which the text tells.
var looking = map[string]string{
	"virt-rotate doctor": "virt-rotate doctor || true", "virt-rotate tree": "virt-rotate tree", "virt-rotate run": "virt-rotate run --now || true",
	"virsh blockcommit": "", "qemu-img compare": "", "virt-rotate doctor DOMAIN": "virt-rotate doctor $D || true", "virt-rotate doctor --fix DOMAIN": "virt-rotate doctor --fix $D || true",
	"qemu-img info --backing-chain": "qemu-img info -U --backing-chain $L3", "qemu-img info": "qemu-img info -U $L3", "qemu-img map": "qemu-img map -U $L3",
	"virt-rotate adopt --internal": "virt-rotate adopt --internal $D", "qemu-img snapshot -l": "qemu-img snapshot -U -l $L3",
	"virsh domfsthaw DOMAIN": "virsh domfsthaw $D || true", "virsh resume DOMAIN": "virsh suspend $D && virsh resume $D", "qemu-img compare NEW FORMER": "qemu-img compare -U $L3 $L2 || true",
	"virsh edit": "", "qemu-img commit": "", "mv": "",
	"virsh domjobinfo DOMAIN": "virsh domjobinfo $D", "virsh domjobabort DOMAIN": "virsh domjobabort $D || true", "virsh start DOMAIN": "virsh start $D || true",
	"virt-rotate snapshot --memory": "", "virt-rotate restore --without-memory": "", // integration/memory_test.go
	"virsh pool-start POOL":     "virsh pool-define-as store dir --target $DIR && virsh pool-start store",
	"virsh pool-autostart POOL": "virsh pool-autostart store", "virsh pool-refresh POOL": "virsh pool-refresh store",
	"virsh snapshot-delete": "", "qemu-img rebase -u -b LOWER -F FORMAT IMAGE": "",
	"virsh blockcommit --active --pivot": "", "virsh migrate": "", // what had been done
	"virt-rotate adopt":   "",                                                                                                                                  // integration/hosts
	"virt-rotate migrate": "", "virsh domstate DOMAIN": "virsh domstate $D", "virsh destroy": "", "virsh undefine": "", "virsh snapshot-create --redefine": "", // of a guest that has moved
	"virt-rotate restore": "", "virsh snapshot-revert": "", "virt-rotate run --now DOMAIN": "", // ways back, with tests of their own
	"virt-rotate doctor --forget SNAPSHOT DOMAIN":                 "! virt-rotate doctor --forget $S2 $D", // it is sound: refused
	"virt-rotate image rebase -u -b ../base.qcow2 -F qcow2 IMAGE": "",
}

// The commands in docs/recovery.md: each is known, and those that are complete cost nothing
// on a guest in which all is well.
func TestTheCommandsInTheManualCostNoState(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/recovery.md")
	must(t, err)
	b := newDaemonBed(t)
	b.writePolicy(handPolicy)
	b.wrapProgram()
	guests := []*handGuest{b.handGuest("h0", hand{name: "the manual", do: "true"})}
	b.startAll(guests)
	for range 3 {
		b.rotate("run", "--now").wantExit(t, 0)
		b.allWrite(guests)
	}
	g := guests[0]
	g.begin()
	delete(g.states, g.named("S1")) // retention drops it
	tried := map[string]bool{}
	for _, m := range regexp.MustCompile("`((?:virsh|virt-rotate|qemu-img|mv)\\b[^`]*)`").FindAllSubmatch(text, -1) {
		command := strings.Join(strings.Fields(string(m[1])), " ")
		if tried[command] {
			continue
		}
		tried[command] = true
		script, ok := looking[command]
		if !ok {
			t.Errorf("docs/recovery.md has %q, of which nothing is known here", command)
		}
		if out, err := g.sh(script); err != nil {
			t.Errorf("%s: %v: %s", script, err, out)
		}
	}
	g.wantStates("the manual")
}

// A guest whose storage is full is paused; space, and what doctor says, let it go on.
func TestAGuestThatIsOutOfSpaceGoesOnByTheRemedy(t *testing.T) {
	t.Parallel()
	place := shortDir(t)
	loop, err := guest.NewLoopMount(t.Context(), place+"/loop", "ext4", place+"/d", 24<<20) // before libvirtd, which has its own mounts
	must(t, err)
	b := newDaemonBed(t)
	b.loops = append(b.loops, loop)
	dir := loop.Dir
	b.writePolicy(handPolicy)
	b.wrapProgram()
	g := &handGuest{bed: b, hand: hand{name: "io-error"}, dom: "h0", dir: dir, states: map[string]string{}, dead: map[string]bool{}}
	b.define(guest.Spec{Name: "h0", Disks: []guest.DiskSpec{{Path: dir + "/disk.qcow2", Size: 4 << 20}}})
	b.startAll([]*handGuest{g})
	for n := range 3 {
		if n == 2 { // or it would have all clusters that it wants before the storage is full
			b.virsh("suspend", "h0")
		}
		b.rotate("run", "--now").wantExit(t, 0)
		b.allWrite([]*handGuest{g})
	}
	g.do = `dd if=/dev/zero of=full bs=64k status=none || true
virsh resume $D
for i in $(seq 6000); do virsh domstate $D --reason | grep -qi "i/o" && exit 0; sleep 0.1; done; exit 1`
	g.begin()
	remedy := g.remedy("io-error")
	must(t, os.Remove(dir+"/full"))
	for _, c := range commandsIn(remedy, "h0") {
		if out, err := g.sh(c); err != nil {
			t.Errorf("%s: %v: %s", c, err, out)
		}
	}
	g.wantStates("the remedy")
	b.waitWrites("h0", 10) // QEMU 7.2 loses a write of an IDE disk here now and then: its blocks are not looked at
	g.wantStates("going on")
}
