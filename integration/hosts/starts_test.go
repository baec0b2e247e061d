package hosts_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/coord/etcd/etcdtest"
)

// The locks of two hosts do not reach each other: nothing is merged. Then libvirt asks before it starts a guest, on both:
// merges go on, a clone that was started is kept, and one whose base is being merged does not start.
func TestGuestsAskBeforeTheyStart(t *testing.T) {
	t.Parallel()
	b := newBed(t, true, 1)
	c := etcdtest.Start(t, 3)
	for n := 1; n <= 2; n++ {
		b.byCluster(n, c)
	}
	b.fresh(true)
	b.keepsOther()
	b.rotation(0x21)
	b.meet()
	b.want(4, 1, "fleet status", "did not see", "fleet hook", "this host, host2")
	b.rotation(0x22)
	b.want(3, 1, "run --now", "local-locks")

	for n := 1; n <= 2; n++ {
		b.want(0, n, "fleet hook", "Restart libvirt's daemon")
		must(t, b.Host(n).RestartDaemon())
	}
	b.proven()
	b.want(0, 1, "fleet status", "asks before it starts a guest")
	b.rotation(0x23)
	if out := b.want(0, 1, "run --now"); !strings.Contains(out, "merge") {
		t.Errorf("nothing was merged:\n%s", out)
	}

	clone := b.hiddenClone()
	before := b.sum(2, clone)
	b.virsh(2, "start", "clone")
	for i := range 2 {
		b.rotation(byte(0x30 + i))
		if out, exit := b.rotate(1, "run", "--now"); exit != 0 && exit != 3 {
			t.Errorf("exit status %d: %s", exit, out)
		}
	}
	if after := b.sum(2, clone); after != before || !b.reads(1, "web", 0x31) {
		t.Error("the clone, or the guest, does not read what it did")
	}
	b.virsh(2, "destroy", "clone")
	b.virsh(2, "undefine", "clone")
	b.on(2, "rm", clone)
	b.want(0, 2, "run")
	b.want(0, 1, "run")

	b.rotation(0x40)
	b.killedAt("merge starts")
	b.hiddenClone()
	if out, err := b.Host(2).Virsh("start", "clone"); err == nil || !strings.Contains(out, "host1 merges layers of guest web") {
		t.Errorf("a guest starts on what is being merged: %s %v", out, err)
	}
	b.want(4, 2, "fleet hook --remove", "host1 merges layers of guest web")
	b.want(0, 1, "run")
	b.virsh(2, "start", "clone")
	b.virsh(2, "destroy", "clone")

	policy, err := os.ReadFile(b.policies[1])
	must(t, err)
	must(t, os.WriteFile(b.policies[1], []byte("[policy"), 0o600))
	must(t, b.Host(1).RestartDaemon())
	if state := b.virsh(1, "domstate", "web"); strings.TrimSpace(state) != "running" {
		t.Errorf("the policy cannot be read, libvirtd is restarted, and the guest is %s", state)
	}
	must(t, os.WriteFile(b.policies[1], policy, 0o600))

	must(t, b.Host(2).Network(false))
	if out, err := b.Host(2).Virsh("start", "clone"); err == nil || !strings.Contains(out, "cannot be asked") {
		t.Errorf("a guest starts without asking: %s %v", out, err)
	}
	must(t, b.Host(2).Network(true))
	b.want(0, 2, "fleet hook --remove", "not there any more")
	b.virsh(2, "start", "clone")
	b.want(4, 1, "fleet status", "host2")
}

// hiddenClone defines a clone of the first host's base on a disk of the second's own; nobody has told of it.
func (b *bed) hiddenClone() (path string) {
	b.Helper()
	path = "/var/lib/libvirt/images/clone.qcow2"
	b.on(2, "mkdir", "-p", filepath.Dir(path))
	b.on(2, "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "/srv/share/img/web.qcow2", path, "16M")
	must(b.T, b.Host(2).Define("clone", path))
	return path
}

// meet lets both hosts be at work at the same time, so that the second finds out that it does not see the other's locks.
func (b *bed) meet() {
	b.Helper()
	policy, err := os.ReadFile(b.policies[1])
	must(b.T, err)
	slow := append(slices.Clone(policy), "[policy.all.hooks]\nbefore = [\"/bin/sleep\", \"20\"]\n"...)
	must(b.T, os.WriteFile(b.policies[1], slow, 0o600))
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.rotate(1, "run", "--now")
	}()
	for met := false; !met; {
		select {
		case <-done:
			b.Fatal("the hosts have not met")
		default:
			b.rotate(2, "run")
			out, _ := b.rotate(2, "fleet", "status")
			met = strings.Contains(out, "did not see")
		}
	}
	<-done
	must(b.T, os.WriteFile(b.policies[1], policy, 0o600))
}

// rotation writes into the guest, so that there is something to take and to merge.
func (b *bed) rotation(pattern byte) {
	b.Helper()
	b.write(1, pattern, 0)
	time.Sleep(1200 * time.Millisecond)
}

// keepsOther gives the second host a guest on the storage, so that it tells of it.
func (b *bed) keepsOther() {
	b.Helper()
	b.on(2, "qemu-img", "create", "-q", "-f", "qcow2", "/srv/share/img/other.qcow2", "16M")
	must(b.T, b.Host(2).Define("other", "/srv/share/img/other.qcow2"))
}

// proven has libvirt call the hook on both hosts, which then tell the others.
func (b *bed) proven() {
	b.Helper()
	b.virsh(2, "start", "other")
	b.virsh(1, "list") // its daemon calls the hook for the guest that runs
	for n := 1; n <= 2; n++ {
		b.rotate(n, "run")
		b.want(0, n, "fleet hook", "libvirt calls it")
	}
}
