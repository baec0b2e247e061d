package hosts_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A layout says where the second host has a clone of the first's image, and by what name that is
// in its header.
type layout struct{ name, clone, base string }

func layouts() []layout {
	return []layout{
		{"own disk", "/var/lib/libvirt/images/clone.qcow2", "/srv/share/img/web.qcow2"},
		{"own disk, other mount", "/var/lib/libvirt/images/clone.qcow2", "/srv/alt/img/web.qcow2"},
		{"subdirectory", "/srv/share/host2/clone.qcow2", "/srv/share/img/web.qcow2"},
		{"other mount", "/srv/alt/img/clone.qcow2", "/srv/alt/img/web.qcow2"},
	}
}

// all tells whether make hosts wants all that there is.
func all() bool { return os.Getenv("VIRT_ROTATE_HOSTS") == "all" }

// A clone of another host stays what it was, whether it runs or not, and whether the guest runs
// into whose image the first host would merge.
func TestACloneOfAnotherHostStaysAsItIs(t *testing.T) {
	t.Parallel()
	for _, fuse := range []bool{false, true} {
		t.Run(map[bool]string{false: "bind", true: "fuse"}[fuse], func(t *testing.T) {
			t.Parallel()
			b := newBed(t, fuse, 1)
			some := layouts()
			if !all() {
				some = some[:2]
			}
			for i, l := range some {
				for k, live := range []bool{false, true} {
					for n, running := range []bool{false, true} {
						if !all() && (i+k+n)%2 == 1 {
							continue
						}
						b.layout(l, live, running)
					}
				}
			}
		})
	}
}

// fresh leaves nothing on the hosts but a new guest web on the first, whose policy has taken a snapshot.
func (b *bed) fresh(live bool) {
	b.Helper()
	for n := 1; n <= 2; n++ {
		for _, guest := range []string{"web", "clone"} {
			_, _ = b.Host(n).Virsh("destroy", guest)
			_, _ = b.Host(n).Virsh("undefine", guest, "--snapshots-metadata")
		}
		must(b.T, os.RemoveAll(b.Host(n).State()))
	}
	for _, dir := range []string{".virt-rotate", "img", "host2"} {
		must(b.T, os.RemoveAll(b.Path(dir)))
	}
	must(b.T, os.MkdirAll(b.Path("img"), 0o755))
	if b.fuse { // names that were looked up are remembered for a second
		time.Sleep(2500 * time.Millisecond)
	}
	b.on(1, "qemu-img", "create", "-q", "-f", "qcow2", "/srv/share/img/web.qcow2", "16M")
	must(b.T, b.Host(1).Define("web", "/srv/share/img/web.qcow2"))
	b.write(1, 0x11, 0)
	if live {
		b.virsh(1, "start", "web")
	}
	b.want(0, 1, "run --now")
}

func (b *bed) layout(l layout, live, running bool) {
	name := fmt.Sprintf("%s, web live %t, clone running %t", l.name, live, running)
	b.fresh(live)
	b.on(2, "mkdir", "-p", filepath.Dir(l.clone))
	b.on(2, "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", l.base, l.clone, "16M")
	must(b.T, b.Host(2).Define("clone", l.clone))
	if running {
		b.virsh(2, "start", "clone")
	}
	b.want(0, 2, "run") // no policy has to do with the clone: it is told all the same
	before := b.sum(2, l.clone)
	for i := range 2 {
		b.write(1, byte(0x22+i), 0)
		time.Sleep(1200 * time.Millisecond)
		out, exit := b.rotate(1, "run", "--now")
		if exit != 0 && exit != 3 {
			b.Errorf("%s: exit status %d\n%s", name, exit, out)
		}
		if exit == 3 && len(strings.Fields(b.virsh(1, "snapshot-list", "web", "--name"))) != i+2 {
			b.Errorf("%s: refused, but a snapshot went\n%s", name, out)
		}
	}
	if after := b.sum(2, l.clone); after != before {
		b.Errorf("%s: the clone was changed", name)
	}
	if want := byte(0x23); !b.reads(1, "web", want) {
		b.Errorf("%s: web does not read what it wrote", name)
	}
}

// reads tells whether a guest's first MiB is of that pattern.
func (b *bed) reads(n int, guest string, pattern byte) bool {
	path, err := b.Host(n).Active(guest)
	must(b.T, err)
	out, err := b.Host(n).Run("qemu-io", "-U", "-r", "-f", "qcow2", "-c", fmt.Sprintf("read -P %d 0 1M", pattern), path)
	must(b.T, err)
	return !strings.Contains(out, "fail")
}

// One guest has two definitions. Whatever the first host does, the running guest is not hurt, and
// nothing is made or deleted.
func TestAGuestOnTwoHosts(t *testing.T) {
	t.Parallel()
	for _, fuse := range []bool{false, true} {
		t.Run(map[bool]string{false: "bind", true: "fuse"}[fuse], func(t *testing.T) {
			t.Parallel()
			b := newBed(t, fuse, 2)
			b.fresh(false)
			b.rotations(1, 2)
			xml := b.virsh(1, "dumpxml", "--inactive", "web")
			must(t, b.Host(2).DefineXML(xml))
			b.virsh(2, "start", "web")
			b.write(2, 0x55, 0)
			b.want(0, 2, "run --now") // it runs here, where the other host left it
			b.unchanged(1, "left behind")
			if !b.reads(2, "web", 0x55) {
				t.Error("the guest does not read what it wrote")
			}
			b.virsh(2, "destroy", "web")
			b.virsh(2, "start", "web")
			b.want(0, 2, "run --now")
			b.unchanged(1, "host2")
			b.want(1, 1, "doctor", "other-host", "virt-rotate adopt web")
			b.want(0, 2, "fleet status", "/srv/share", "host1")
			b.want(4, 1, "adopt web", "--down host2")
			b.virsh(1, "undefine", "web", "--snapshots-metadata")
			b.want(0, 1, "doctor")
		})
	}
}

func (b *bed) rotations(n, times int) {
	b.Helper()
	for i := range times {
		b.write(n, byte(0x31+i), 1+i)
		time.Sleep(1200 * time.Millisecond)
		b.want(0, n, "run --now")
	}
}

// unchanged runs on a host that is to leave the guest alone.
func (b *bed) unchanged(n int, why string) {
	b.Helper()
	files, snaps := b.files(), b.virsh(n, "snapshot-list", "web", "--name")
	b.want(4, n, "plan", "other-host", why)
	b.want(4, n, "run --now", "other-host", why)
	if now := b.files(); now != files {
		b.Errorf("host%d made or deleted layers: %s, before %s", n, now, files)
	}
	if now := b.virsh(n, "snapshot-list", "web", "--name"); now != snaps {
		b.Errorf("host%d has other snapshots: %s, before %s", n, now, snaps)
	}
}

// A host loses power with a guest on it; another takes over; the first comes back.
func TestAHostTakesOverFromOneThatDied(t *testing.T) {
	t.Parallel()
	b := newBed(t, false, 2)
	b.fresh(true)
	old := b.virsh(1, "dumpxml", "--inactive", "web")
	b.rotations(1, 2)
	now := b.virsh(1, "dumpxml", "--inactive", "web")
	must(t, b.Host(1).Kill())

	must(t, b.Host(2).DefineXML(old))
	b.want(4, 2, "run --now", "other-host") // and layers of the old one are gone
	b.want(4, 2, "adopt --down host1 web", "old one")
	must(t, b.Host(2).DefineXML(now))
	b.want(4, 2, "adopt web", "--down host1")
	b.want(0, 2, "adopt --down host1 web")
	b.virsh(2, "start", "web")
	b.write(2, 0x66, 0)
	time.Sleep(1200 * time.Millisecond)
	b.want(0, 2, "run --now")

	must(t, b.Host(1).Boot(false))
	b.unchanged(1, "host2")
	if !b.reads(2, "web", 0x66) {
		t.Error("the guest does not read what it wrote")
	}
	b.virsh(1, "undefine", "web", "--snapshots-metadata")
	b.want(0, 1, "doctor")
	b.want(0, 2, "run --now")
}
