package blockid

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// tree makes a sysfs: "number path" lines name devices, "path: text" attributes, "path > path" what a device lies on.
func tree(t *testing.T, lines string) Sys {
	t.Helper()
	root := t.TempDir()
	at := func(parts ...string) string { return filepath.Join(append([]string{root}, parts...)...) }
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, name string) {
		must(os.MkdirAll(filepath.Dir(name), 0o755))
		must(os.Symlink(to, name))
	}
	for line := range strings.Lines(lines) {
		line = strings.TrimSpace(line)
		if path, text, ok := strings.Cut(line, ": "); ok {
			must(os.MkdirAll(filepath.Dir(at("devices", path)), 0o755))
			must(os.WriteFile(at("devices", path), []byte(text+"\n"), 0o600))
		} else if upper, lower, ok := strings.Cut(line, " > "); ok {
			link(at("devices", lower), at("devices", upper, "slaves", filepath.Base(lower)))
		} else if number, path, ok := strings.Cut(line, " "); ok {
			must(os.MkdirAll(at("devices", path), 0o755))
			link(at("devices", path), at("dev", "block", number))
			if !strings.Contains(filepath.Base(filepath.Dir(path)), "sd") { // a partition is below its disk alone
				link(at("devices", path), at("block", filepath.Base(path)))
			}
		}
	}
	return Sys{root}
}

const vgA, lvA, lvB = "uZ3VTjmf2Tn2cMQ5rJ4bq7vX0a1b2c3d", "0123456789abcdefghijklmnopqrstuv", "vutsrqponmlkjihgfedcba9876543210"

// A host with a LUN over two paths, with LVM and LUKS on it, a local disk with a partition, an RBD image, a loop device.
const host = `
8:0 pci/host1/block/sda
pci/host1/block/sda/device/wwid: naa.6001405aAbBcC0000000000000000001
8:16 pci/host2/block/sdb
pci/host2/block/sdb/device/wwid: naa.6001405aabbcc0000000000000000001
8:32 pci/ata/block/sdc
pci/ata/block/sdc/device/wwid: t10.ATA     QEMU HARDDISK                           QM00001
8:33 pci/ata/block/sdc/sdc1
pci/ata/block/sdc/sdc1/partition: 1
8:48 pci/host3/block/sdd
pci/host3/block/sdd/device/wwid: naa.5000c500a1b2c3d4
8:49 pci/host3/block/sdd/sdd2
pci/host3/block/sdd/sdd2/partition: 2
259:0 pci/nvme/nvme0n1
pci/nvme/nvme0n1/wwid: eui.0025385B71B0D5E5
259:1 pci/nvme/nvme1n1
pci/nvme/nvme1n1/wwid: nvme.1b36-64656164-51454d55-00000001
253:0 virtual/block/dm-0
virtual/block/dm-0/dm/uuid: mpath-36001405aabbcc0000000000000000001
virtual/block/dm-0 > pci/host1/block/sda
virtual/block/dm-0 > pci/host2/block/sdb
253:1 virtual/block/dm-1
virtual/block/dm-1/dm/uuid: LVM-` + vgA + lvA + `
virtual/block/dm-1 > virtual/block/dm-0
253:2 virtual/block/dm-2
virtual/block/dm-2/dm/uuid: CRYPT-LUKS2-00112233445566778899aabbccddeeff-secret
virtual/block/dm-2 > virtual/block/dm-1
253:3 virtual/block/dm-3
virtual/block/dm-3/dm/uuid: part1-mpath-36001405aabbcc0000000000000000001
virtual/block/dm-3 > virtual/block/dm-0
253:4 virtual/block/dm-4
virtual/block/dm-4/dm/uuid: LVM-` + vgA + lvB + `-cow
virtual/block/dm-4 > virtual/block/dm-0
253:5 virtual/block/dm-5
virtual/block/dm-5/dm/uuid: whatever
virtual/block/dm-5 > virtual/block/dm-5
251:0 virtual/block/rbd0
virtual/block/rbd0/device/cluster_fsid: 11111111-2222-3333-4444-555555555555
virtual/block/rbd0/device/pool: vms
virtual/block/rbd0/device/name: web
virtual/block/rbd0/device/current_snap: -
251:16 virtual/block/rbd1
virtual/block/rbd1/device/cluster_fsid: 11111111-2222-3333-4444-555555555555
virtual/block/rbd1/device/pool: vms
virtual/block/rbd1/device/pool_ns: team
virtual/block/rbd1/device/name: web
virtual/block/rbd1/device/current_snap: monday
7:0 virtual/block/loop0
254:0 pci/virtio/block/vda
pci/virtio/block/vda/serial: 200663348258123
`

func TestDevicesAreNamedAsOtherHostsNameThem(t *testing.T) {
	sys := tree(t, host)
	const lun, group, ceph = "wwn:6001405aabbcc0000000000000000001", "vg:" + vgA, "ceph:11111111-2222-3333-4444-555555555555"
	for number, want := range map[[2]uint32]Device{
		{8, 0}:    {lun, []string{lun}}, // one path, the other, both: one disk
		{8, 16}:   {lun, []string{lun}},
		{253, 0}:  {lun, []string{lun}},
		{253, 3}:  {lun + "-part1", []string{lun}},
		{253, 1}:  {"lvm:" + vgA + "/" + lvA, []string{group, lun}},
		{253, 2}:  {"luks:00112233445566778899aabbccddeeff", []string{group, lun}},
		{253, 4}:  {"lvm:" + vgA + "/" + lvB + "-cow", []string{group, lun}},
		{253, 5}:  {"", nil}, // lies on itself, which no kernel tells
		{8, 32}:   {"", nil}, // a serial number is the same on many
		{8, 33}:   {"", nil},
		{8, 49}:   {"wwn:5000c500a1b2c3d4-part2", []string{"wwn:5000c500a1b2c3d4"}},
		{259, 0}:  {"wwn:0025385b71b0d5e5", []string{"wwn:0025385b71b0d5e5"}},
		{259, 1}:  {"", nil},
		{251, 0}:  {"rbd:11111111-2222-3333-4444-555555555555/vms/web", []string{ceph}},
		{251, 16}: {"rbd:11111111-2222-3333-4444-555555555555/vms/team/web@monday", []string{ceph}},
		{7, 0}:    {"", nil},
		{254, 0}:  {"", nil},
		{99, 9}:   {"", nil}, // is not there
	} {
		got := sys.Device(unix.Mkdev(number[0], number[1]))
		if got.Name != want.Name || !slices.Equal(got.On, want.On) {
			t.Errorf("%v: %+v, want %+v", number, got, want)
		}
	}
	if got, want := sys.Visible(), []string{ceph, group, "wwn:0025385b71b0d5e5", "wwn:5000c500a1b2c3d4", lun}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestWhatIsNoIdentityIsNone(t *testing.T) {
	for _, id := range []string{"", "naa.", "naa.0000000000000000", "uuid.00000000-0000-0000-0000-000000000000", "naa.60g1", "t10.X", "6001405"} {
		if got := wwn(id); got != "" {
			t.Errorf("%q: %q", id, got)
		}
	}
	for _, uuid := range []string{"LVM-short", "mpath-1QEMU", "mpath-", "CRYPT-PLAIN-x", "part1-other", "x"} {
		if got := mapped(uuid); got != "" {
			t.Errorf("%q: %q", uuid, got)
		}
	}
	if got := (Sys{t.TempDir()}).Visible(); len(got) > 0 {
		t.Error(got)
	}
}

// The kernel of this machine is asked, whatever it has.
func TestTheKernelIsAsked(t *testing.T) {
	if _, err := os.Stat("/sys/dev/block"); err != nil {
		t.Fatal(err)
	}
	for _, name := range (Sys{}).Visible() {
		if !strings.Contains(name, ":") {
			t.Errorf("%q", name)
		}
	}
}
