package integration_test

import (
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
	"github.com/virt-rotate/virt-rotate/internal/termtest"
)

// The overview stays on the terminal, with a bar for the merge that goes on, and ^C ends it well; what
// was on the terminal before is there again.
func TestStatusIsWatchedOnATerminal(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1"})
	b.rotations("g1", 2)
	const (
		first = `[-0-9]+ [:0-9]+, .*\nGUEST  STATE    SNAPSHOTS  NEWEST   CHAIN  ON DISK   VERDICT\n`
		g1    = `g1     running  2          [a-z0-9 ]+  3/30   [0-9.]+ [KM]iB [A-Z]+ .*`
		bar   = `\n  vda commit \[#*\.+\] +[0-9]+% of [0-9.]+ [KM]?i?B`
	)
	for _, width := range []string{"80", "200"} {
		s := termtest.Start(t, width, "echo before; "+b.shellLine([]string{"TERM=screen"}, "status", "--watch")+"; echo status $?")
		s.Shows(loosely(first + g1))
		layers := b.chain("g1", "vda")
		b.virsh("blockcommit", "g1", "vda", "--top", layers[1].Path, "--base", layers[2].Path, "--bandwidth", "1", "--bytes")
		s.Shows(loosely(first + g1 + bar))
		b.virsh("blockjob", "g1", "vda", "--abort")
		s.Shows(loosely(first + g1))
		s.Press("C-c")
		s.Shows(`before\nstatus 0`)
	}
	if r := b.rotate("status", "--watch").wantExit(t, 2); !strings.Contains(r.Stderr, "--watch wants a terminal") || r.Stdout != "" {
		t.Errorf("%v", r)
	}
	b.checkGuest("g1")
}
