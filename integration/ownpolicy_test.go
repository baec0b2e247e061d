package integration_test

import (
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// Guests say by libvirt's metadata which policy is theirs, running and shut off. The
// metadata is still there after rotations and a restore.
func TestGuestsThatCarryTheirPolicy(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	const ns = "https://github.com/virt-rotate/virt-rotate/ns/policy"
	b.writePolicy("[metadata]\nallow = true\n[policy.gold]\nevery = \"1s\"\nkeep = { last = 3 }\nmin_free = \"0%\"\n" +
		strings.Replace(keepThree, "g*", "a*", 1))
	set := func(element string, flags ...string) {
		t.Helper()
		b.virsh(append([]string{"metadata", "g1", ns, "--key", "vr", "--set", element}, flags...)...)
	}
	count := func(want int) {
		t.Helper()
		b.waitWrites("g1", 20)
		b.rotate("run", "--now").wantExit(t, 0)
		if names := b.snapshotNames("g1"); len(names) != want {
			t.Errorf("snapshots %q, want %d", names, want)
		}
	}
	b.boot(guest.Spec{Name: "g1"})
	count(0)
	set(`<policy name="gold"/>`, "--live", "--config")
	for n := range 4 {
		count(min(n+1, 3))
	}
	set(`<policy name="gold">keep.last = 1</policy>`, "--live", "--config")
	count(1)
	before := b.keptStates("g1")
	set(`<policy name="silver"/>`) // of the running guest alone
	if r := b.rotate("run", "--now").wantExit(t, 4); !strings.Contains(r.Stdout, `own-policy: metadata of g1: name="silver"`) {
		t.Errorf("%v", r)
	}
	b.unchanged("g1", before)
	b.bring("g1", "shut off")
	b.rotate("run", "--now").wantExit(t, 0)
	b.rotate("restore", "g1", "latest").wantExit(t, 0)
	if text := b.virsh("metadata", "g1", ns); !strings.Contains(text, "keep.last = 1") {
		t.Errorf("the metadata is now %q", text)
	}
	b.bring("g1", "running")
	count(1)
	set(`<policy enabled="no"/>`, "--live", "--config")
	if r := b.rotate("run", "--now", "-v").wantExit(t, 0); !strings.Contains(r.Stderr, "no policy covers a domain") {
		t.Errorf("%v", r)
	}
	b.checkGuest("g1")
}
