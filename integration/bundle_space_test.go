package integration_test

import (
	"os"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// Whether there is room is asked before anything is written; where that cannot be known, what
// was begun goes when it runs out.
func TestWholeExportsAndRoom(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	small := b.loopMount("ext4", 24<<20)
	b.writePolicy(keep("1", ""))
	b.define(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{Size: 64 << 20}}})
	grows := func() string {
		b.qemuIO(b.disk("g1", "vda"), "write -q -P 7 0 40M")
		b.rotate("run", "--now").wantExit(t, 0)
		return b.snapshotNames("g1")[0]
	}
	b.rotate("run", "--now").wantExit(t, 0)
	b.rotate("export", "g1", "latest", "--all", "-o", small+"/base").wantExit(t, 0)
	grows()
	name := grows() // the snapshot of the export is gone
	wantOnly := func(names ...string) {
		t.Helper()
		entries, err := os.ReadDir(small)
		must(t, err)
		if len(entries) != len(names) {
			t.Errorf("there are %v, want %q", entries, names)
		}
	}
	if r := b.rotate("export", "g1", name, "--all", "-o", small+"/out"); r.Exit != 4 || !strings.Contains(r.Stderr, "MiB are free there") {
		t.Errorf("%v", r)
	}
	wantOnly("base", "lost+found")
	if r := b.rotate("export", "g1", name, "--all", "--base", small+"/base", "-o", small+"/out"); r.Exit != 1 || !strings.Contains(r.Stderr, "no space left") {
		t.Errorf("%v", r)
	}
	wantOnly("base", "lost+found")
	b.rotate("verify", "--full", small+"/base").wantExit(t, 0)
	b.rotate("export", "g1", name, "--all", "-o", b.path("out")).wantExit(t, 0)
	if r := b.rotate("import", b.path("out"), "--to", small, "--trust", "--name", "g2"); r.Exit != 4 || !strings.Contains(r.Stderr, "MiB are free there") {
		t.Errorf("%v", r)
	}
	wantOnly("base", "lost+found")
}
