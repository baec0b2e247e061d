package nspawn

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// domain is a guest that does nothing but write numbered blocks to vda.
const domain = `<domain type='qemu'>
<name>web-1</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os>
<devices>
<emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/var/lib/libvirt/boot/web-1.boot'/><target dev='vdz' bus='virtio'/><readonly/><boot order='1'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='` + Images + `/web-1.qcow2'/><target dev='vda' bus='ide'/><boot order='2'/><address type='drive' controller='0' bus='0' unit='0'/></disk>
<controller type='usb' model='none'/><memballoon model='none'/>
<serial type='file'><source path='/var/log/libvirt/qemu/web-1.serial'/></serial>
</devices>
</domain>
`

const diskSize = 8 << 20

// StartGuest defines and starts web-1, and waits until it writes.
func (s *System) StartGuest() {
	s.t.Helper()
	boot := filepath.Join(s.t.TempDir(), "boot")
	must(s.t, guest.DefaultParams(diskSize).WriteBootDisk(boot))
	s.Bring(boot, "/var/lib/libvirt/boot/web-1.boot")
	s.Write("/root/web-1.xml", domain, 0o644)
	s.Sh(fmt.Sprintf("qemu-img create -q -f qcow2 %s/web-1.qcow2 %d", Images, diskSize))
	s.Sh("virsh -q define /root/web-1.xml && virsh -q start web-1")
	s.WaitWrites(50)
}

// WaitWrites waits until the guest has written so many more blocks.
func (s *System) WaitWrites(n int) {
	s.t.Helper()
	count := func() (int, error) {
		b, err := s.Command("cat", "/var/log/libvirt/qemu/web-1.serial").Output()
		return 8 * strings.Count(string(b), "."), err
	}
	first, err := count()
	must(s.t, err)
	s.Await("the guest to write", func() (bool, error) {
		now, err := count()
		return now >= first+n, err
	})
}

// Blocks reads the state of a snapshot: it must be one that the guest was in, which is the
// number of its newest block.
func (s *System) Blocks(snapshot string) uint64 {
	s.t.Helper()
	s.Sh("rm -f /root/state.raw && virt-rotate export web-1 " + snapshot + " -o /root/state.raw -O raw")
	f, err := os.Open("/proc/" + s.Leader + "/root/root/state.raw")
	must(s.t, err)
	defer f.Close()
	k, err := guest.Check(f, guest.DefaultParams(diskSize))
	must(s.t, err)
	return k
}

// Snapshots are the names, oldest first.
func (s *System) Snapshots() []string {
	s.t.Helper()
	out, err := s.Command("virsh", "snapshot-list", "web-1", "--name", "--topological").Output()
	must(s.t, err)
	return strings.Fields(string(out))
}
