package hosts_test

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// sums are checksums of what the guest's snapshots have, by name.
func (b *bed) sums(n int) map[string]string {
	b.Helper()
	all := map[string]string{}
	for _, line := range strings.Split(b.states(n), "\n") {
		if name, rest, is := strings.Cut(line, " on "); is {
			f := strings.Fields(rest)
			all[name] = f[len(f)-1]
		}
	}
	return all
}

// A death is that of a run, at a place between two steps, of a guest that runs or is off.
type death struct {
	place string
	live  bool
}

// A run is killed at a place between two steps, and its host with it. Another host takes the guest over: it has the snapshots,
// and its first run does what the other's had begun. Then the first host comes back, and gets the guest again.
func TestARunThatIsKilledIsFinishedOnAnotherHost(t *testing.T) {
	t.Parallel()
	b := newBed(t, false, 3)
	places := []death{{"after merge", true}, {"merge starts", false}}
	if all() {
		places = append(places, []death{{"after the intent", true}, {"after drop-metadata", false}, {"after merge", false},
			{"before delete-file", true}, {"after delete-file", false}}...)
	}
	for _, c := range places {
		b.fresh(c.live)
		b.rotations(1, 2)
		b.write(1, 0x44, 3)
		time.Sleep(1200 * time.Millisecond)
		before := b.sums(1)
		if len(before) != 3 {
			t.Fatalf("%v", before)
		}
		b.killedAt(c.place)
		xml := b.virsh(1, "dumpxml", "--inactive", "web")
		active, err := b.Host(1).Active("web")
		must(t, err)
		sees := b.sum(1, active)
		must(t, b.Host(1).Kill())

		must(t, b.Host(2).DefineXML(xml))
		b.want(0, 2, "adopt --down host1 web", "host1")
		oldest := slices.Min(slices.Collect(maps.Keys(before)))
		for name, sum := range before {
			if name != oldest && b.sums(2)[name] != sum {
				t.Errorf("%s: snapshot %s is %s, before it was %s", c.place, name, b.sums(2)[name], sum)
			}
		}
		b.want(0, 2, "run")
		after := b.sums(2)
		delete(before, oldest)
		for name, sum := range before {
			if after[name] != sum {
				t.Errorf("%s: after the run, snapshot %s is %s, before it was %s", c.place, name, after[name], sum)
			}
		}
		if _, is := after[oldest]; len(after) != 3 || is {
			t.Errorf("%s: the snapshots are %v, and the oldest was %s", c.place, after, oldest)
		}
		if active, err = b.Host(2).Active("web"); err != nil || b.sum(2, active) != sees {
			t.Errorf("%s: the guest does not see what it saw: %v", c.place, err)
		}
		b.want(0, 2, "doctor")
		if n := strings.Count(b.files(), "\n"); n != 3 {
			t.Errorf("%s: there are other images than the four of the chain:\n%s", c.place, b.files())
		}
		b.comesBack()
		if t.Failed() {
			t.Fatalf("%s, live %t", c.place, c.live)
		}
	}
}

// killedAt has a rotation of the first host die at a place.
func (b *bed) killedAt(place string) {
	b.Helper()
	program, err := mortal()
	must(b.T, err)
	out, err := b.Host(1).Run("env", "VIRT_ROTATE_KILL_AT="+place, program, "--connect", "qemu:///system", "--policy", cmp.Or(b.policies[1], b.policy),
		"--state-dir", b.Host(1).State(), "run", "--now")
	if err == nil || !strings.Contains(out, "killed at") {
		b.Fatalf("%s: %v %s", place, err, out)
	}
}

// comesBack boots the first host, which leaves the guest alone, and gives it back as the second one has it: not while libvirt
// there has snapshots of former times.
func (b *bed) comesBack() {
	b.Helper()
	must(b.T, b.Host(1).Boot(false))
	b.unchanged(1, "host2")
	b.write(2, 0x55, 2)
	b.want(0, 2, "run --now")
	want := b.states(2)
	xml := b.virsh(2, "dumpxml", "--inactive", "web")
	b.virsh(2, "undefine", "web", "--snapshots-metadata")
	b.want(0, 2, "run")
	must(b.T, b.Host(1).DefineXML(xml))
	said := b.want(1, 1, "adopt web", "of a time when the guest was here before", "snapshot-delete")
	command := regexp.MustCompile(`for s in .*; done`).FindString(said)
	b.on(1, "sh", "-c", command)
	b.want(0, 1, "adopt web", "host2")
	if now := b.states(1); now != want {
		b.Errorf("host1 has\n%s\nhost2 had\n%s", now, want)
	}
	b.want(0, 1, "run")
	b.want(0, 1, "doctor")
	if entries, err := os.ReadDir(b.Host(1).State() + "/intents"); err == nil && len(entries) > 0 {
		b.Errorf("begun is still %s", fmt.Sprint(entries))
	}
}
