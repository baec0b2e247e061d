package hosts_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/coord/etcd/etcdtest"
)

// Hosts tell each other by a cluster: a clone on another host's disk is kept; without the cluster
// snapshots go on, and nothing is merged.
func TestHostsOfACluster(t *testing.T) {
	t.Parallel()
	b := newBed(t, false, 1)
	c := etcdtest.Start(t, 3)
	for n := 1; n <= 2; n++ {
		b.byCluster(n, c)
	}
	b.fresh(false)
	clone := "/var/lib/libvirt/images/clone.qcow2"
	b.on(2, "mkdir", "-p", filepath.Dir(clone))
	b.on(2, "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "/srv/share/img/web.qcow2", clone, "16M")
	must(t, b.Host(2).Define("clone", clone))
	b.want(0, 2, "run")
	before := b.sum(2, clone)
	b.rotations(1, 2)
	if b.sum(2, clone) != before {
		t.Error("the clone was changed")
	}
	b.want(0, 1, "fleet status", "by etcd at", "host2", "ran ")
	must(t, os.WriteFile(b.policies[2], fmt.Appendf(nil, policyText, 1), 0o600)) // as if it had not moved
	b.want(4, 2, "fleet status", "[coordination]")

	must(t, b.Host(1).Network(false))
	b.noMerges("no answer within")
	must(t, b.Host(1).Network(true))
	c.Kill(0)
	c.Kill(1)
	b.noMerges("too few of them")
	c.Run(0)
	c.Wait()
	b.write(1, 0x77, 0)
	time.Sleep(1200 * time.Millisecond)
	b.want(0, 1, "run --now")
	if b.sum(2, clone) != before {
		t.Error("the clone was changed")
	}
}

// byCluster connects a host to the cluster, and gives it a policy that says so.
func (b *bed) byCluster(n int, c *etcdtest.Cluster) {
	b.Helper()
	address, err := b.Host(n).Connect()
	must(b.T, err)
	var endpoints []string
	for _, e := range c.Endpoints {
		endpoints = append(endpoints, fmt.Sprintf("%q", strings.Replace(e, "127.0.0.1", address, 1)))
	}
	if b.policies == nil {
		b.policies = map[int]string{}
	}
	b.policies[n] = fmt.Sprintf("%s-%d", b.policy, n)
	text := fmt.Sprintf("[coordination]\nengine = \"etcd\"\nendpoints = [%s]\n", strings.Join(endpoints, ", ")) + fmt.Sprintf(policyText, 1)
	must(b.T, os.WriteFile(b.policies[n], []byte(text), 0o600))
}

// noMerges runs on the first host, which takes its snapshot and leaves the layers as they are.
func (b *bed) noMerges(why string) {
	b.Helper()
	b.write(1, 0x70, 0)
	time.Sleep(1200 * time.Millisecond)
	had := len(strings.Fields(b.virsh(1, "snapshot-list", "web", "--name")))
	b.want(4, 1, "fleet status", why)
	b.want(3, 1, "run --now", "unheard-host", why)
	if now := len(strings.Fields(b.virsh(1, "snapshot-list", "web", "--name"))); now != had+1 {
		b.Errorf("%d snapshots, before the run %d", now, had)
	}
}
