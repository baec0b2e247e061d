package hosts_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// moving has a guest with three snapshots on the first host, and the options with which it goes to the second.
func moving(t *testing.T, live bool) (b *bed, command string) {
	t.Helper()
	b = newBed(t, false, 3)
	address, err := b.Link()
	must(t, err)
	must(t, os.WriteFile(b.policy, fmt.Appendf(nil, strings.Replace(policyText, `"1s"`, `"1h"`, 1), 3), 0o600)) // none by the clock
	b.fresh(live)
	b.rotations(1, 2)
	return b, fmt.Sprintf("migrate web qemu+tcp://%[1]s/system -- tcp://%[1]s --unsafe", address)
}

// states are checksums of what the guest's snapshots have, by name, and of what the guest sees.
func (b *bed) states(n int) string {
	b.Helper()
	out := ""
	for _, name := range strings.Fields(b.virsh(n, "snapshot-list", "web", "--name", "--topological")) {
		xml := b.virsh(n, "snapshot-dumpxml", "web", name)
		_, after, _ := strings.Cut(xml, "<domain ")
		_, after, _ = strings.Cut(after, "<source file='")
		path, _, _ := strings.Cut(after, "'")
		parent := strings.TrimSpace(first(b.Host(n).Virsh("snapshot-parent", "web", name)))
		out += fmt.Sprintf("%s on %q: %s %s\n", name, parent, path, b.sum(n, path))
	}
	active, err := b.Host(n).Active("web")
	must(b.T, err)
	return out + "current " + b.virsh(n, "snapshot-current", "web", "--name") + b.sum(n, active)
}

func first(out string, err error) string {
	if err != nil {
		return ""
	}
	return out
}

// isOn wants the guest on one host alone, with all states that it had, and nothing on record.
func (b *bed) isOn(n int, live bool, states string) {
	b.Helper()
	for i := 1; i <= 2; i++ {
		want := map[bool]string{true: "running", false: "shut off"}[live]
		out, err := b.Host(i).Virsh("domstate", "web")
		if i == n && (err != nil || strings.TrimSpace(out) != want) || i != n && err == nil {
			b.Fatalf("host%d: %v %s", i, err, out)
		}
	}
	if now := b.states(n); now != states {
		b.Errorf("host%d has\n%s\nbefore the move it was\n%s", n, now, states)
	}
	for _, dir := range []string{b.Path(".virt-rotate"), b.Host(1).State(), b.Host(2).State()} {
		if left, _ := filepath.Glob(filepath.Join(dir, "moves", "*")); len(left) > 0 {
			b.Errorf("on record is still %v", left)
		}
	}
}

// A guest moves with its snapshots; the other host goes on, and this one has nothing to do with it any more.
func TestAGuestMovesWithItsSnapshots(t *testing.T) {
	t.Parallel()
	for _, live := range []bool{true, false} {
		t.Run(fmt.Sprintf("live %t", live), func(t *testing.T) {
			t.Parallel()
			b, command := moving(t, live)
			if !live {
				command = strings.TrimSuffix(command, " --unsafe")
				command, _, _ = strings.Cut(command, " --")
			}
			b.rotate(2, "run")
			before := b.states(1)
			b.want(0, 1, "migrate --dry-run web "+strings.Fields(command)[2], "migrate")
			b.isOn(1, live, before)
			b.want(0, 1, command, "migrate")
			b.isOn(2, live, before)
			b.want(0, 2, "run")
			b.isOn(2, live, before)
			b.want(0, 1, "run")
			b.want(0, 1, "doctor")
			b.write(2, 0x61, 0)
			time.Sleep(1200 * time.Millisecond)
			b.want(0, 2, "run --now", "merge")
			b.want(0, 2, "doctor")
			if n := len(strings.Fields(b.virsh(2, "snapshot-list", "web", "--name"))); n != 3 {
				t.Errorf("%d snapshots after the next rotation", n)
			}
			if !b.reads(2, "web", 0x61) {
				t.Error("the guest does not read what it wrote")
			}
		})
	}
}

// The other host refuses the guest, or is not there: all is as it was, and what libvirt says is told.
func TestAMigrationThatFailsLeavesAllAsItWas(t *testing.T) {
	t.Parallel()
	b, command := moving(t, true)
	before := b.states(1)
	b.want(1, 1, strings.TrimSuffix(command, " --unsafe"), "Unsafe migration")
	b.isOn(1, true, before)
	b.on(2, "sh", "-c", "umount /srv/share")
	b.want(1, 1, command, "did not move")
	b.isOn(1, true, before)
	b.on(2, "ip", "link", "set", "lo", "down")
	b.on(2, "sh", "-c", "kill -9 $(cat /run/libvirtd.pid)")
	b.want(1, 1, command, "nothing was changed")
	b.isOn(1, true, before)
	b.want(0, 1, "run")
	b.want(0, 1, "doctor")
}

// The command is killed at a place between two steps; runs of both hosts put all where the guest is.
func TestAMigrationThatIsKilledIsFinished(t *testing.T) {
	t.Parallel()
	b, command := moving(t, true)
	program, err := mortal()
	must(t, err)
	for i, c := range []struct {
		place   string
		order   []int
		daemons bool // both libvirtds are killed, too
	}{
		{"the move is on record on the storage", []int{1, 2}, false},
		{"the move is on record", []int{2, 1}, false},
		{"after drop-metadata", []int{1, 2}, true},
		{"before migrate", []int{2, 1}, false},
		{"after migrate", []int{1, 2}, true},
		{"after migrate", []int{2, 1}, false},
		{"before the snapshots are written", []int{2, 1}, false},
		{"the move is off the record on the storage", []int{1, 2}, false},
	} {
		if i%3 != 1 && !all() { // make hosts has the others
			continue
		}
		b.fresh(true)
		b.rotations(1, 2)
		before := b.states(1)
		args := append([]string{"env", "VIRT_ROTATE_KILL_AT=" + c.place, program, "--connect", "qemu:///system", "--policy", b.policy,
			"--state-dir", b.Host(1).State()}, strings.Fields(command)...)
		out, err := b.Host(1).Run(args...)
		if err == nil || !strings.Contains(out, "killed at") {
			t.Fatalf("%s: %v %s", c.place, err, out)
		}
		if c.daemons {
			must(t, errors.Join(b.Host(1).RestartDaemon(), b.Host(2).RestartDaemon()))
		}
		for _, n := range c.order {
			b.rotate(n, "doctor")
			b.rotate(n, "run")
		}
		on := 1
		if _, err := b.Host(1).Virsh("domstate", "web"); err != nil {
			on = 2
		}
		b.isOn(on, true, before)
		b.want(0, on, "run")
		b.want(0, 3-on, "doctor")
		if t.Failed() {
			t.Fatalf("%s, order %v", c.place, c.order)
		}
	}
}

// commandline is more of the domain's QEMU: memory that takes a while to be moved.
const commandline = `<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><qemu:arg value='-device'/>
<qemu:arg value='loader,file=/srv/share/random,addr=0x800000,force-raw=on'/></qemu:commandline></domain>`

// The command is killed while libvirt moves the guest. A run leaves that alone; when it has ended, by itself or
// since the network is gone, all is where the guest is.
func TestAMigrationGoesOnWithoutItsCommand(t *testing.T) {
	t.Parallel()
	b, command := moving(t, false)
	b.on(1, "dd", "if=/dev/urandom", "of=/srv/share/random", "bs=1M", "count=16", "status=none")
	must(t, b.Host(1).DefineXML(strings.Replace(b.virsh(1, "dumpxml", "--inactive", "web"), "</domain>", commandline, 1)))
	b.virsh(1, "start", "web")
	before := b.states(1)
	program, err := binary()
	must(t, err)
	for _, cut := range []bool{true, false} {
		run := strings.Join([]string{"echo $$ >/run/migrate.pid; exec", program, "--connect qemu:///system --policy", b.policy,
			"--state-dir", b.Host(1).State(), command, "--bandwidth 1"}, " ")
		cmd := b.Host(1).Command("sh", "-c", run)
		must(t, cmd.Start())
		b.await("migration", func() bool {
			return strings.Contains(first(b.Host(1).Virsh("domjobinfo", "web")), "Outgoing migration")
		})
		b.on(1, "sh", "-c", "kill -9 $(cat /run/migrate.pid)")
		_ = cmd.Wait()
		b.want(4, 1, "run", "migration")
		if n := b.virsh(1, "snapshot-list", "web", "--name"); strings.TrimSpace(n) != "" {
			t.Errorf("snapshots amid the migration: %s", n)
		}
		on := 2
		if cut {
			must(t, b.Cut())
			on = 1
		}
		b.await("the end of the migration", func() bool {
			_, err := b.Host(3-on).Virsh("domstate", "web")
			return err != nil && !strings.Contains(first(b.Host(on).Virsh("domjobinfo", "web")), "migration")
		})
		b.rotate(on, "run")
		b.rotate(3-on, "run")
		b.isOn(on, true, before)
		if t.Failed() {
			return
		}
		if cut {
			_, err = b.Link()
			must(t, err)
		}
	}
}

func (b *bed) await(what string, done func() bool) {
	b.Helper()
	for until := time.Now().Add(3 * time.Minute); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		if done() {
			return
		}
	}
	b.Fatal(what + " does not come")
}
