package integration_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// QEMU or libvirtd can die just when a merge is finished, and libvirt come back
// with the old chain. Here that is brought about by hand, while the guest is off: layer and
// header are merged, XML and intent are as before the merge.
func TestAMergeWhoseEndLibvirtMissedIsDoneAgain(t *testing.T) {
	t.Parallel()
	for _, started := range few([]bool{true, false}, 1) {
		t.Run(fmt.Sprintf("started=%v", started), func(t *testing.T) {
			t.Parallel()
			doneAgain(t, started)
		})
	}
}

// doneAgain brings it about, and has it done again on the guest once it is
// started, or while it is off.
func doneAgain(t *testing.T, started bool) {
	b := newBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1"})
	b.rotations("g1", 3)
	names := b.snapshotNames("g1")
	before := b.keptStates("g1")
	chain := b.chain("g1", "vda") // active first
	base, gone, above := chain[3].Path, chain[2].Path, chain[1].Path
	b.destroy("g1")
	b.virsh("snapshot-delete", "g1", names[0], "--metadata")
	b.qemuImg("commit", "-q", "-f", "qcow2", "-d", gone)
	b.qemuImg("rebase", "-u", "-f", "qcow2", "-b", base, "-F", "qcow2", above)
	b.writeIntent("g1", names[0], base, gone)

	b.writePolicy(keepThree + "\noffline = \"skip\"")
	b.rotate("run", "--no-snapshot").wantExit(t, 0)
	if _, err := os.Stat(gone); err != nil {
		t.Errorf("the layer that the configuration names: %v", err)
	}
	if started {
		b.start("g1")
	} else {
		b.writePolicy(keepThree)
	}
	b.rotate("run", "--no-snapshot").wantExit(t, 0)
	if _, err := os.Stat(gone); !os.IsNotExist(err) {
		t.Errorf("%s: %v, want it gone", gone, err)
	}
	b.wantKept("g1", before, names[1], names[2])
	if !started {
		b.start("g1")
	}
	b.rotations("g1", 2)
	b.wantInOrder("g1", 4)
}

// Here libvirt misses the end while the guest runs: QEMU is told to merge behind its
// back, which leaves what a libvirtd leaves that is killed in that moment.
func TestAGuestThatRunsOnAChainLibvirtMissedIsFinishedAfterItsRestart(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1"})
	b.rotations("g1", 3)
	names := b.snapshotNames("g1")
	before := b.keptStates("g1")
	chain := b.chain("g1", "vda")
	base, gone := chain[3].Path, chain[2].Path
	b.virsh("snapshot-delete", "g1", names[0], "--metadata")
	b.writeIntent("g1", names[0], base, gone)
	b.qmp("g1", "block-commit", map[string]any{"job-id": "unseen", "device": b.activeNode("g1"), "base": base, "top": gone})
	b.waitJobs("g1")

	out := b.rotate("run", "--no-snapshot").wantExit(t, 4).String()
	if !strings.Contains(out, "shut it down and start it") {
		t.Errorf("the refusal says not what to do:\n%s", out)
	}
	if _, err := os.Stat(gone); err != nil {
		t.Errorf("the layer that the configuration names: %v", err)
	}
	b.waitWrites("g1", 60)
	b.destroy("g1")
	b.start("g1")
	b.rotate("run", "--no-snapshot").wantExit(t, 0)
	if _, err := os.Stat(gone); !os.IsNotExist(err) {
		t.Errorf("%s: %v, want it gone", gone, err)
	}
	b.wantKept("g1", before, names[1], names[2])
	b.wantInOrder("g1", 3)
}

// The same at the pivot of an active commit: what the guest has written since
// is in the base, and libvirt would start it from the layer above.
func TestAGuestWhosePivotLibvirtMissedLosesNoWrite(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1"})
	b.rotations("g1", 1)
	names := b.snapshotNames("g1")
	chain := b.chain("g1", "vda")
	base, gone := chain[1].Path, chain[0].Path
	b.virsh("snapshot-delete", "g1", names[0], "--metadata")
	b.writeIntent("g1", names[0], base, gone)
	b.qmp("g1", "block-commit", map[string]any{"job-id": "unseen", "device": b.activeNode("g1"), "base": base})
	b.waitReady("g1")
	b.qmp("g1", "job-complete", map[string]any{"id": "unseen"})
	b.waitJobs("g1")
	b.waitWrites("g1", 200)

	out := b.rotate("run", "--no-snapshot").wantExit(t, 3).String()
	if !strings.Contains(out, "shut the guest down and start it") {
		t.Errorf("the refusal says not what to do:\n%s", out)
	}
	b.virsh("suspend", "g1")
	written := b.state(base)
	b.destroy("g1")
	if now := b.state(base); now.Blocks != written.Blocks || b.disk("g1", "vda").Path != base {
		t.Fatalf("the guest would start from %s; the base has %d blocks, had %d", b.disk("g1", "vda").Path, now.Blocks, written.Blocks)
	}
	b.start("g1")
	b.waitWrites("g1", 60)
	b.rotate("run", "--no-snapshot").wantExit(t, 0)
	if _, err := os.Stat(gone); !os.IsNotExist(err) {
		t.Errorf("%s: %v, want it gone", gone, err)
	}
	if now := b.checkGuest("g1")["vda"]; now.Blocks <= written.Blocks {
		t.Errorf("the guest has %d blocks, no more than %d", now.Blocks, written.Blocks)
	}
	if c := b.chain("g1", "vda"); len(c) != 1 {
		t.Errorf("the chain is %v", c)
	}
	b.noLeftovers("g1")
}

// qmp has QEMU do something of which libvirt knows nothing.
func (b *bed) qmp(dom, command string, args map[string]any) string {
	b.t.Helper()
	text, err := json.Marshal(map[string]any{"execute": command, "arguments": args})
	must(b.t, err)
	out := b.virsh("qemu-monitor-command", dom, string(text))
	if strings.Contains(out, `"error"`) {
		b.t.Fatalf("%s: %s", command, out)
	}
	return out
}

// activeNode returns QEMU's name of the top of vda's chain.
func (b *bed) activeNode(dom string) string {
	b.t.Helper()
	match := regexp.MustCompile(`index='(\d+)'`).FindStringSubmatch(sourceLine(b.virsh("dumpxml", dom), b.chain(dom, "vda")[0].Path))
	if match == nil {
		b.t.Fatal("no index")
	}
	return "libvirt-" + match[1] + "-format"
}

func sourceLine(text, path string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, "'"+path+"'") {
			return line
		}
	}
	return ""
}

func (b *bed) waitJobs(dom string) {
	b.t.Helper()
	b.waitJob(dom, func(jobs string) bool { return strings.Contains(jobs, `"return":[]`) })
}

func (b *bed) waitReady(dom string) {
	b.t.Helper()
	b.waitJob(dom, func(jobs string) bool { return strings.Contains(jobs, `"status":"ready"`) })
}

func (b *bed) waitJob(dom string, done func(string) bool) {
	b.t.Helper()
	b.await("QEMU's job", func() bool { return done(b.qmp(dom, "query-jobs", map[string]any{})) })
}

func (b *bed) state(path string) guest.State {
	b.t.Helper()
	s, err := guest.ReadState(b.t.Context(), path, "qcow2", b.host.Spec("g1").Params)
	must(b.t, err)
	return s
}

// writeIntent writes what a run has written before it merges gone into base.
func (b *bed) writeIntent(dom, drop, base, gone string) {
	b.t.Helper()
	info, err := os.Stat(gone)
	must(b.t, err)
	st := info.Sys().(*syscall.Stat_t)
	uuid := strings.TrimSpace(b.virsh("domuuid", dom))
	text := fmt.Sprintf(`{"version":1,"domain":%q,"uuid":%q,"started":"2026-01-01T00:00:00Z","drops":[%q],
"merges":[{"disk":"vda","base":%q,"gone":[{"path":%q,"id":{"dev":%d,"ino":%d}}]}]}`, dom, uuid, drop, base, gone, st.Dev, st.Ino)
	dir := b.path("state", "intents")
	must(b.t, os.MkdirAll(dir, 0o700))
	must(b.t, os.WriteFile(filepath.Join(dir, uuid+".json"), []byte(text), 0o600))
}
