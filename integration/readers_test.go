package integration_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// serve hands out a snapshot's disk vda until it is told to stop.
func (b *bed) serve(snapshot, socket string) *rotation {
	b.t.Helper()
	s := b.beginRotate("serve", "g1", snapshot, "--disk", "vda", "--socket", socket)
	b.awaitIn(s, "the socket", func() bool { _, err := os.Stat(socket); return err == nil })
	return s
}

// A rotation whose merges meet a reader puts them off, says whom they wait for, and has not
// failed; what the reader sees stays the state of the snapshot; the next run merges.
func TestMergesThatMeetAReaderArePutOff(t *testing.T) {
	t.Parallel()
	for _, state := range []string{"running", "shut off"} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			b := newDaemonBed(t)
			b.writePolicy(keepThree)
			b.boot(guest.Spec{Name: "g1"})
			b.rotations("g1", 3)
			b.waitWrites("g1", 40)
			b.bring("g1", state)
			before := b.keptStates("g1")
			oldest := b.snapshotNames("g1")[0]
			socket := b.path("nbd")
			s := b.serve(oldest, socket)
			told := fmt.Sprintf("is being read by virt-rotate serve (pid %d)", s.cmd.Process.Pid)
			for range 2 {
				r := b.rotate("run", "--now", "--verbose").wantExit(t, 0)
				if !strings.Contains(r.Stdout, told) {
					t.Errorf("it is not told what the merges wait for: %v", r)
				}
			}
			if r := b.rotate("status", "g1").wantExit(t, 0); !strings.Contains(r.Stdout, told) {
				t.Errorf("status: %v", r)
			}
			if names := b.snapshotNames("g1"); names[0] != oldest || len(names) < 4 {
				t.Errorf("snapshots %q", names)
			}
			raw := b.path("served.raw")
			b.qemuImg("convert", "-O", "raw", "nbd+unix:///?socket="+socket, raw)
			if sum(t, raw) != before[oldest]["vda"].SHA256 {
				t.Error("what is served is not the snapshot any more")
			}
			must(t, s.cmd.Process.Signal(syscall.SIGTERM))
			s.wait()
			b.rotate("run", "--no-snapshot").wantExit(t, 0)
			if n := len(b.snapshotNames("g1")); n != 3 {
				t.Errorf("%d snapshots afterwards, want 3", n)
			}
			b.unchanged("g1", before)
			b.checkGuest("g1")
		})
	}
}

// A reader that comes amid a merge of its layers gets an error, and never another state.
func TestAReaderAmidAMergeGetsAnError(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	_, run := b.inSlowMerge("2")
	oldest := b.snapshotNames("g1")[0]
	for _, args := range [][]string{
		{"serve", "g1", oldest, "--socket", b.path("nbd")},
		{"export", "g1", oldest, "-O", "raw", "-o", b.path("out")},
		{"ls", "--host-kernel", "g1@" + oldest + ":/"},
	} {
		if r := b.rotate(args...); r.Exit != 4 || !strings.Contains(r.Stderr, "merge") && args[0] != "export" {
			t.Errorf("%q: %v", args, r)
		}
	}
	if _, err := os.Lstat(b.path("out")); err == nil {
		t.Error("an export has left a file")
	}
	b.hurry("g1")
	run.wait().wantExit(t, 0)
	b.rotate("export", "g1", oldest, "-O", "raw", "-o", b.path("out")).wantExit(t, 0)
	if sum(t, b.path("out")) != b.keptStates("g1")[oldest]["vda"].SHA256 {
		t.Error("the export is another state")
	}
}

// handsOut is when serve is told to stop that should have refused by itself.
const handsOut = 5 * time.Minute

// A merge that is over between the look of a reader and its first lock has brought another
// state into the layer that it was to read: an error, and nothing is handed out. Here the
// merge runs just before the first image is opened, as if the reader were not on record yet.
func TestAReaderWhoseLayersWereMergedGetsAnError(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1"})
	b.rotations("g1", 3)
	b.writePolicy(strings.Replace(keepThree, "last = 3", "last = 1", 1))
	oldest := b.snapshotNames("g1")[0]
	program, err := binary()
	must(t, err)
	nbd, err := exec.LookPath("qemu-nbd")
	must(t, err)
	must(t, os.Mkdir(b.path("bin"), 0o755))
	merges := fmt.Sprintf("#!/bin/sh\nrm %s/*\n%s --policy %s --connect '%s' run --no-snapshot >%s 2>&1\nexec %s \"$@\"\n",
		b.path("state/readers"), program, b.policy, b.host.URI(), b.path("run.log"), nbd)
	must(t, os.WriteFile(b.path("bin/qemu-nbd"), []byte(merges), 0o755))
	b.env = []string{"PATH=" + b.path("bin") + ":" + os.Getenv("PATH")}
	s := b.beginRotate("serve", "g1", oldest, "--socket", b.path("nbd"))
	defer time.AfterFunc(handsOut, func() { _ = s.cmd.Process.Signal(syscall.SIGTERM) }).Stop() // it hands something out
	if r := s.wait(); r.Exit != 4 || r.Stdout != "" || !strings.Contains(r.Stderr, "have changed") {
		t.Errorf("%v", r)
	}
	if names := b.snapshotNames("g1"); len(names) != 1 {
		log, _ := os.ReadFile(b.path("run.log"))
		t.Errorf("the merge did not come between: snapshots %q; %s", names, log)
	}
}
