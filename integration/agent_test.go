package integration_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// withoutAgent is how long a run may take to give up an agent that does not answer.
const withoutAgent = 30 * time.Second

// newLinuxBed makes a host with a Linux guest g1 that writes, and whose agent answers.
// An embedded libvirt would not do: a client of it does not see an agent that came
// while another one, or none, was looking.
func newLinuxBed(t *testing.T) *bed {
	t.Helper()
	b := newDaemonBed(t)
	must(t, b.host.DefineLinux(t.Context(), "g1"))
	b.virsh("start", "g1")
	must(t, b.host.WaitLines(t.Context(), "g1", 30))
	b.wantThawed()
	return b
}

// quiescePolicy is keepThree with one more key.
func (b *bed) quiescePolicy(quiesce string) {
	b.t.Helper()
	b.writePolicy(fmt.Sprintf("%s\nquiesce = %q", keepThree, quiesce))
}

// agent asks the guest agent of g1, which has a few seconds to answer.
func (b *bed) agent(command string, arguments any) (answer string, err error) {
	b.t.Helper()
	request, err := json.Marshal(map[string]any{"execute": command, "arguments": arguments})
	must(b.t, err)
	out, err := b.host.Virsh(b.t.Context(), "qemu-agent-command", "g1", string(request), "--timeout", "3")
	if err != nil {
		return "", err
	}
	var reply struct{ Return json.RawMessage }
	must(b.t, json.Unmarshal([]byte(out), &reply))
	return string(reply.Return), nil
}

// inGuest has the agent start a shell script, and does not wait for its end.
func (b *bed) inGuest(script string) {
	b.t.Helper()
	_, err := b.agent("guest-exec", map[string]any{"path": "/bin/sh", "arg": []string{"-c", script}})
	must(b.t, err)
}

// freezeStatus is what the agent says of the file systems, frozen or thawed; it is
// asked until it answers.
func (b *bed) freezeStatus() string {
	b.t.Helper()
	status := ""
	b.await("the agent's answer", func() bool {
		var err error
		status, err = b.agent("guest-fsfreeze-status", struct{}{})
		return err == nil
	})
	return strings.Trim(status, `"`)
}

// wantThawed fails the test unless the file systems are thawed and written to.
func (b *bed) wantThawed() {
	b.t.Helper()
	if status := b.freezeStatus(); status != "thawed" {
		b.t.Fatalf("the guest's file systems are %s", status)
	}
	must(b.t, b.host.WaitLines(b.t.Context(), "g1", 5))
}

// newestState writes the state of the newest snapshot of g1 to a raw file.
func (b *bed) newestState() string {
	b.t.Helper()
	snapshots := b.snapshots("g1")
	if len(snapshots) == 0 {
		b.t.Fatal("there is no snapshot")
	}
	s := snapshots[len(snapshots)-1]
	layer, err := guest.StateLayer(b.t.Context(), s.Disks[0])
	must(b.t, err)
	raw := b.path(s.Name + ".raw")
	b.qemuImg("convert", "-U", "-f", layer.Format, "-O", "raw", layer.Path, raw)
	return raw
}

// e2fs runs a program of e2fsprogs and returns what it prints.
func e2fs(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, args...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Errorf("%s %q: %v\n%s%s", program, args, err, out, exit.Stderr)
	} else {
		must(t, err)
	}
	return string(out)
}

// needsRecovery tells whether the journal of a file system has to be replayed. The
// kernel says so in the superblock from mounting to unmounting, except while the file
// system is frozen.
func needsRecovery(t *testing.T, raw string) bool {
	t.Helper()
	for line := range strings.Lines(e2fs(t, "dumpe2fs", "-h", raw)) {
		if features, ok := strings.CutPrefix(line, "Filesystem features:"); ok {
			return slices.Contains(strings.Fields(features), "needs_recovery")
		}
	}
	t.Fatalf("%s: dumpe2fs tells no features", raw)
	return false
}

// wantFrozenState fails the test unless raw was frozen, is sound without its journal,
// and has all lines that the guest had written before, synced or not.
func wantFrozenState(t *testing.T, raw string, lines int) {
	t.Helper()
	if needsRecovery(t, raw) {
		t.Error("the file system was not frozen: its journal needs recovery")
	}
	e2fs(t, "e2fsck", "-f", "-n", raw)
	log := strings.Fields(e2fs(t, "debugfs", "-R", "cat "+guest.LinuxLog, raw))
	for i, line := range log {
		if line != strconv.Itoa(i+1) {
			t.Fatalf("line %d is %q", i+1, line)
		}
	}
	if len(log) < lines {
		t.Errorf("the snapshot has %d lines; %d had been written", len(log), lines)
	}
}

func TestAQuiescedSnapshotHasAFrozenFileSystem(t *testing.T) {
	t.Parallel()
	b := newLinuxBed(t)
	for _, quiesce := range []string{"no", "yes", "auto"} {
		b.quiescePolicy(quiesce)
		lines, err := b.host.Lines("g1")
		must(t, err)
		if r := b.rotate("run", "--now").wantExit(t, 0); r.Stderr != "" {
			t.Errorf("quiesce = %q: %v", quiesce, r)
		}
		if raw := b.newestState(); quiesce != "no" {
			wantFrozenState(t, raw, lines)
		} else if !needsRecovery(t, raw) {
			t.Error("a file system that is not frozen needs no recovery: the test sees nothing")
		}
		b.wantThawed()
	}
	b.noLeftovers("g1")
}

// stopAgent leaves an agent that is connected and says nothing.
func (b *bed) stopAgent() {
	b.t.Helper()
	b.inGuest("sleep 0.5; killall -STOP qemu-ga; echo stopped >/dev/ttyS0")
	must(b.t, b.host.WaitSaid(b.t.Context(), "g1", "stopped"))
	if _, err := b.agent("guest-ping", struct{}{}); err == nil {
		b.t.Fatal("the agent does not stop")
	}
	if xml := b.virsh("dumpxml", "g1"); !strings.Contains(xml, "state='connected'") {
		b.t.Fatalf("the agent is not connected:\n%s", xml)
	}
}

func TestAnAgentThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	b := newLinuxBed(t)
	b.stopAgent()

	b.quiescePolicy("yes")
	r := b.timedRun().wantExit(t, 1)
	if !strings.Contains(r.Stdout, "Guest agent is not responding") {
		t.Errorf("the error is not clear: %v", r)
	}
	b.wantUntouched()

	b.quiescePolicy("auto")
	r = b.timedRun().wantExit(t, 0)
	if !strings.Contains(r.Stderr, "crash-consistent") {
		t.Errorf("no warning: %v", r)
	}
	if !strings.Contains(r.Stdout, "crash-consistent") {
		t.Errorf("the report says that the snapshot is quiesced: %v", r)
	}
	if !needsRecovery(t, b.newestState()) {
		t.Error("the file system was frozen, without an agent")
	}
	must(t, b.host.WaitLines(t.Context(), "g1", 5))
	b.noStrayOverlays("g1")
	// It cannot be known that the mute agent froze nothing.
	if r := b.rotate("doctor").wantExit(t, 1); !strings.Contains(r.Stdout, "could not thaw the guest") {
		t.Errorf("doctor does not say that the guest may be frozen: %v", r)
	}
}

// wantUntouched fails the test unless g1 has neither a snapshot nor an overlay of one.
func (b *bed) wantUntouched() {
	b.t.Helper()
	if names, chain := b.snapshotNames("g1"), b.chain("g1", "vda"); len(names) != 0 || len(chain) != 1 {
		b.t.Errorf("after a snapshot that was not taken: snapshots %q, chain %v", names, chain)
	}
	b.noStrayOverlays("g1")
}

// timedRun is a run that may take as long as it takes to give up an agent.
func (b *bed) timedRun() result {
	b.t.Helper()
	_, err := binary() // not on this clock
	must(b.t, err)
	start := time.Now()
	r := b.rotate("run", "--now")
	if took := time.Since(start); took > withoutAgent {
		b.t.Errorf("the run took %v: %v", took, r)
	}
	return r
}

// A freeze that was given up would come all the same, with nobody left to thaw.
func TestAFreezeThatTakesLongIsWaitedFor(t *testing.T) {
	t.Parallel()
	b := newLinuxBed(t)
	b.inGuest(`echo '[ "$1" != freeze ] || sleep 8' >> /freeze-hook`)
	b.quiescePolicy("auto")
	lines, err := b.host.Lines("g1")
	must(t, err)
	if r := b.rotate("run", "--now").wantExit(t, 0); r.Stderr != "" {
		t.Error(r)
	}
	wantFrozenState(t, b.newestState(), lines)
	b.wantThawed()
	b.noLeftovers("g1")
}

func TestQuiesceYesWithoutAnAgentIsRefused(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.boot(guest.Spec{Name: "g1"})
	b.quiescePolicy("yes")
	var r report
	b.rotate("run", "--now", "--output=json").wantExit(t, 4).decode(t, &r)
	if refused := r.Domains[0].Refused; len(refused) != 1 || refused[0].Code != "no-guest-agent" {
		t.Errorf("refused: %+v", refused)
	}
	b.wantUntouched()
}

// A run that dies between freeze and thaw leaves its intent and a frozen guest.
func TestAGuestThatWasLeftFrozenIsThawed(t *testing.T) {
	t.Parallel()
	b := newLinuxBed(t)
	b.quiescePolicy("no")
	for _, args := range [][]string{{"run", "--no-snapshot"}, {"run", "--now"}} {
		b.leaveFrozen()
		b.rotate(args...).wantExit(t, 0)
		b.wantThawed()
		b.noLeftovers("g1")
	}
}

func (b *bed) leaveFrozen() {
	b.t.Helper()
	b.virsh("domfsfreeze", "g1")
	if status := b.freezeStatus(); status != "frozen" {
		b.t.Fatalf("the guest's file systems are %s", status)
	}
	uuid := strings.TrimSpace(b.virsh("domuuid", "g1"))
	intent, err := json.Marshal(map[string]any{
		"version": 1, "domain": "g1", "uuid": uuid, "started": time.Now(), "quiesce": true,
	})
	must(b.t, err)
	dir := b.path("state", "intents")
	must(b.t, os.MkdirAll(dir, 0o700))
	must(b.t, os.WriteFile(filepath.Join(dir, uuid+".json"), intent, 0o600))
}
