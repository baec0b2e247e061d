package integration_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// transportSocket makes the test binary what ssh is to a remote connection:
// it carries bytes between its standard streams and the socket named there.
const transportSocket = "VIRT_ROTATE_TEST_SOCKET"

func carry(socket string) int {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go func() { _, _ = io.Copy(conn, os.Stdin) }()
	_, _ = io.Copy(os.Stdout, conn)
	return 0
}

// A connection to another host: what needs no local file works from what
// libvirt tells, what needs the files is refused and says so.
func TestAnotherHostIsLookedAtButNotRotated(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.boot(guest.Spec{Name: "g1"})
	b.snapshot("g1", "s1")
	transport := b.path("transport")
	self, err := os.Executable()
	must(t, err)
	_, socket, _ := strings.Cut(b.host.URI(), "socket=")
	script := fmt.Sprintf("#!/bin/sh\n%s='%s' exec '%s'\n", transportSocket, socket, self)
	must(t, os.WriteFile(transport, []byte(script), 0o755))
	b.writePolicy(keepThree)
	connect := []string{"--connect", "qemu+ext://another.example/system?command=" + transport}
	for command, want := range map[string]string{
		"status *":    "2 layers",
		"tree":        "snapshot g1/s1",
		"policy show": "last = 3",
	} {
		r := b.rotate(append(connect, strings.Fields(command)...)...).wantExit(t, 0)
		if !strings.Contains(r.Stdout, want) {
			t.Errorf("%s: no %q in %v", command, want, r)
		}
	}
	before := b.snapshotNames("g1")
	for _, command := range []string{"plan", "run"} {
		var r report
		b.rotate(append(connect, command, "--output=json")...).wantExit(t, 4).decode(t, &r)
		if d := r.Domains[0]; len(d.Steps) > 0 || len(d.Refused) != 1 || d.Refused[0].Code != "remote" {
			t.Errorf("%s: %+v", command, d)
		}
	}
	if after := b.snapshotNames("g1"); len(after) != len(before) {
		t.Errorf("snapshots %q, before %q", after, before)
	}
}
