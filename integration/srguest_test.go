package integration_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	endian "encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
	"github.com/virt-rotate/virt-rotate/vhdbridge/srtest"
	"github.com/virt-rotate/virt-rotate/vhdbridge/xapi/xapitest"
	"github.com/virt-rotate/virt-rotate/vhdbridge/xva/xvatest"
)

// Two disks of a guest of XenServer, with three snapshots, each of both disks.
const (
	rootDisk  = "aaaaaaaa-0000-0000-0000-000000000000"
	dataDisk  = "bbbbbbbb-0000-0000-0000-000000000000"
	guestVM   = "cccccccc-0000-0000-0000-000000000000"
	moments   = 4 // three snapshots, and now
	guestSize = 8 << 20
)

// snapVDI and snapVM are the UUIDs of the n-th snapshot, from 1.
func snapVDI(disk string, n int) string { return disk[:8] + fmt.Sprintf("-0000-0000-0000-%012d", n) }
func snapVM(n int) string               { return guestVM[:8] + fmt.Sprintf("-0000-0000-0000-%012d", n) }

// baseVDI is the hidden node that has what a disk was at the n-th moment, from 0.
func baseVDI(disk string, n int) string {
	return disk[:8] + fmt.Sprintf("-0000-0000-0000-%012d", 100+n)
}

// momentTime is when a snapshot was taken.
func momentTime(n int) time.Time { return time.Date(2024, 5, n, 3, 0, 0, 0, time.UTC) }

// bootSector is what a test guest boots from.
func bootSector(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "boot")
	must(t, guest.DefaultParams(guestSize).WriteBootDisk(path))
	data, err := os.ReadFile(path)
	must(t, err)
	return data[:512]
}

// guestDisks is what both disks read as at each moment. The first boots the program that
// writes to all disks behind it.
func guestDisks(t *testing.T) (root, data [moments][]byte) {
	t.Helper()
	a, b := make([]byte, guestSize), make([]byte, guestSize)
	copy(a, bootSector(t))
	for n := range moments {
		copy(a[(1+n)<<20:], bytes.Repeat([]byte{byte(0x11 * (n + 1))}, 1<<20+4096))
		if n != 1 { // nothing was written to the second disk before the second snapshot
			copy(b[6<<20+n<<16:], bytes.Repeat([]byte{byte(0xa0 + n)}, 1<<17))
		}
		root[n], data[n] = slices.Clone(a), slices.Clone(b)
	}
	return root, data
}

// writeVHDs makes the chain of a disk as XenServer leaves it: of a snapshot after which nothing
// was written to the disk, the next one builds on the same parent.
func writeVHDs(t *testing.T, dir, disk string, content [moments][]byte) {
	t.Helper()
	size := int64(len(content[0]))
	parent, before := "", make([]byte, size)
	for n := range moments {
		own := differing(before, content[n])
		last := n == moments-1
		if own != nil || last {
			name := baseVDI(disk, n)
			if last {
				name = disk
			}
			srtest.Write(t, dir, srtest.Node{Name: name, Parent: parent, Size: size, Hidden: !last, Own: own, Created: momentTime(n + 1)})
			parent, before = name, content[n]
		}
		if !last {
			srtest.Write(t, dir, srtest.Node{Name: snapVDI(disk, n+1), Parent: parent, Size: size, Created: momentTime(n + 1)})
		}
	}
}

// differing is now where it is not as before, and zeros elsewhere; nil: it is the same.
func differing(before, now []byte) []byte {
	if bytes.Equal(before, now) {
		return nil
	}
	own := make([]byte, len(now))
	for at := 0; at < len(now); at += 512 {
		if !bytes.Equal(before[at:at+512], now[at:at+512]) {
			copy(own[at:], now[at:at+512])
		}
	}
	return own
}

// poolXML is the pool's database with the guest, which is called so, and its snapshots.
func poolXML(name string) string {
	var vm, vdi, vbd strings.Builder
	fmt.Fprintf(&vm, `<row ref="OpaqueRef:vm" uuid="%s" name__label="%s" memory__static_max="33554432" memory__dynamic_max="25165824" VCPUs__max="2" VCPUs__at_startup="1"`+
		` HVM__boot_policy="BIOS%%.order" HVM__boot_params="(('order'%%.'cd'))" platform="(('cores-per-socket'%%.'2'))"/>`, guestVM, name)
	for i, disk := range []string{rootDisk, dataDisk} {
		fmt.Fprintf(&vdi, `<row ref="OpaqueRef:%s" uuid="%s" name__label="disk" managed="true"/>`, disk, disk)
		fmt.Fprintf(&vbd, `<row ref="OpaqueRef:b%d" VM="OpaqueRef:vm" VDI="OpaqueRef:%s" userdevice="%d" type="Disk" bootable="%v"/>`, i, disk, i, i == 0)
	}
	for n := 1; n < moments; n++ {
		at := momentTime(n).Format("20060102T15:04:05Z")
		fmt.Fprintf(&vm, `<row ref="OpaqueRef:s%d" uuid="%s" name__label="night%%.%d" is_a_snapshot="true" snapshot_of="OpaqueRef:vm" snapshot_time="%s"/>`, n, snapVM(n), n, at)
		for i, disk := range []string{rootDisk, dataDisk} {
			fmt.Fprintf(&vdi, `<row ref="OpaqueRef:%[1]s" uuid="%[1]s" name__label="disk" is_a_snapshot="true" snapshot_of="OpaqueRef:%[2]s" snapshot_time="%[3]s"/>`, snapVDI(disk, n), disk, at)
			fmt.Fprintf(&vbd, `<row ref="OpaqueRef:b%d%d" VM="OpaqueRef:s%d" VDI="OpaqueRef:%s" userdevice="%d" type="Disk"/>`, i, n, n, snapVDI(disk, n), i)
		}
	}
	return `<database><table name="VM">` + vm.String() + `</table><table name="VDI">` + vdi.String() + `</table><table name="VBD">` + vbd.String() + `</table>` +
		`<table name="VIF"><row ref="OpaqueRef:i" uuid="i" VM="OpaqueRef:vm" device="0" MAC="52:54:00:ab:cd:01" network="OpaqueRef:n"/></table>` +
		`<table name="network"><row ref="OpaqueRef:n" uuid="n" name__label="Pool%.wide" bridge="xenbr0"/></table></database>`
}

// stateSums is what each snapshot of a domain, and the domain itself, reads as, by target.
func (b *bed) stateSums(dom string, targets ...string) (all [][]string) {
	b.t.Helper()
	for _, name := range b.snapshotNames(dom) {
		var of []string
		for _, target := range targets {
			of = append(of, sumOf(b.raw(b.stateLayer(dom, name, target), "qcow2")))
		}
		all = append(all, of)
	}
	var now []string
	for _, target := range targets {
		now = append(now, sumOf(b.raw(b.disk(dom, target).Path, "qcow2")))
	}
	return append(all, now)
}

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// wantMoments wants the domain's snapshots, and the domain, to read as the disks did then.
func (b *bed) wantMoments(dom string, targets []string, contents ...[moments][]byte) {
	b.t.Helper()
	got := b.stateSums(dom, targets...)
	if len(got) != moments {
		b.t.Fatalf("%d snapshots", len(got)-1)
	}
	for n := range moments {
		for i := range targets {
			if want := sumOf(contents[i][n]); got[n][i] != want {
				b.t.Errorf("moment %d, %s: %s, want %s", n, targets[i], got[n][i], want)
			}
		}
	}
}

// bootsAndWrites starts the domain and waits until the program on its first disk has written
// to target.
func (b *bed) bootsAndWrites(dom, target string) {
	b.t.Helper()
	b.emulated(dom)
	b.virsh("start", dom)
	must(b.t, guest.Await(b.t.Context(), "the guest "+dom+" to boot and write", func() (bool, error) {
		fields := strings.Fields(b.virsh("domblkstat", dom, target))
		i := slices.Index(fields, "wr_req")
		if i < 0 || i+1 >= len(fields) {
			return false, fmt.Errorf("domblkstat: %q", fields)
		}
		n, err := strconv.Atoi(fields[i+1])
		return n > 20, err
	}))
}

// emulated lets the domain run without KVM, as all guests of the tests do, and without a display:
// libvirts that do not know of each other would give guests the same port.
func (b *bed) emulated(dom string) {
	b.t.Helper()
	text := strings.Replace(b.virsh("dumpxml", "--inactive", dom), "<domain type='kvm'", "<domain type='qemu'", 1)
	file := b.path(dom + "-emulated.xml")
	must(b.t, os.WriteFile(file, []byte(notEmulated.ReplaceAllString(text, "")), 0o600))
	b.virsh("define", file)
}

var notEmulated = regexp.MustCompile(`(?s)<cpu .*</cpu>|<graphics .*</graphics>`)

// wantTold wants people to have been told so.
func wantTold(t *testing.T, r result, words ...string) {
	t.Helper()
	for _, want := range words {
		if !strings.Contains(r.Stderr, want) {
			t.Errorf("%q is missing: %v", want, r)
		}
	}
}

const keepThreeNights = `[policy.night]
domains = ["*"]
every = "1s"
keep = { last = 3 }`

// rotatesGuest lets the guest that has come along be rotated while it runs.
func (b *bed) rotatesGuest(dom, target string) {
	b.t.Helper()
	before := b.snapshotNames(dom)
	b.rotate("run", "--now").wantExit(b.t, 0)
	after := b.snapshotNames(dom)
	if len(after) != 3 || !strings.HasPrefix(after[2], "night-") || !slices.Equal(after[:2], before[len(before)-2:]) {
		b.t.Errorf("snapshots %q, and before %q", after, before)
	}
	b.destroy(dom)
	if data := b.raw(b.disk(dom, target).Path, "qcow2"); !bytes.Contains(data, []byte("VROT")) {
		b.t.Error("nothing of what the guest wrote is on its disk")
	}
	b.rotate("doctor", dom).wantExit(b.t, 0)
}

// A guest of a pool comes with its disks, its snapshots, each of all disks, and what it is like;
// it boots, and rotation goes on.
func TestAGuestOfAPoolComesWithItsSnapshots(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	root, data := guestDisks(t)
	must(t, os.Mkdir(b.path("sr"), 0o755))
	writeVHDs(t, b.path("sr"), rootDisk, root)
	writeVHDs(t, b.path("sr"), dataDisk, data)
	must(t, os.WriteFile(b.path("pool.xml"), []byte(poolXML("web/1")), 0o600))
	b.writePolicy(keepThreeNights)
	r := b.rotate("sr", "convert", b.path("sr"), "--names", b.path("pool.xml"), "--vm", "web/1", "--define", "web", "--to", b.path("images")).wantExit(t, 0)
	wantTold(t, r, "defined domain web", `"night 1", VDI `+snapVDI(rootDisk, 1)+", "+snapVDI(dataDisk, 1), "on IDE", "has no link")

	names := b.snapshotNames("web")
	if len(names) != 3 || names[0] != "xenserver-20240501T030000Z" {
		t.Fatalf("%q", names)
	}
	b.wantMoments("web", []string{"hda", "hdb"}, root, data)
	for i, target := range []string{"hda", "hdb"} {
		want := b.path("images", fmt.Sprintf("web-1-disk%d.%s.qcow2", i, names[2]))
		if path := b.disk("web", target).Path; path != want || b.overlay("web", names[2], target) != want {
			t.Errorf("%s is %s", target, path)
		}
	}
	files, err := filepath.Glob(b.path("images", "*.qcow2"))
	must(t, err)
	if len(files) != 2*moments {
		t.Errorf("%q", files)
	}
	xml := b.virsh("dumpxml", "web")
	for _, want := range []string{"<memory unit='KiB'>32768<", "<currentMemory unit='KiB'>24576<", "<vcpu placement='static' current='1'>2</vcpu>", "sockets='1'", "cores='2'", "52:54:00:ab:cd:01",
		"<link state='down'/>", guestVM, "<serial type='pty'>", "type='vnc'", "device='cdrom'"} {
		if !strings.Contains(xml, want) {
			t.Errorf("%s is missing in %s", want, xml)
		}
	}
	if list := b.virsh("snapshot-dumpxml", "web", names[0]); !strings.Contains(list, "night 1") {
		t.Errorf("the name is not noted: %s", list)
	}
	b.goesOnHere("web")
}

// goesOnHere wants the guest, which has come along with three snapshots, to boot, to write to its
// second disk, and to be rotated.
func (b *bed) goesOnHere(dom string) {
	b.t.Helper()
	statusKeeps(b.t, b, moments-1)
	b.bootsAndWrites(dom, "hdb")
	b.rotatesGuest(dom, "hdb")
}

// And the guest of a live host, which is pulled over its API.
func TestAGuestOfALiveHostComesWithItsSnapshots(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	root, data := guestDisks(t)
	s := liveHost(t, root, data)
	must(t, os.WriteFile(b.path("password"), []byte(s.Password+"\n"), 0o600))
	b.writePolicy(keepThreeNights)
	b.rotate("sr", "pull", "--fingerprint", s.Fingerprint(), "--password-file", b.path("password"), "--vm", "web", "--to", b.path("pulled"), s.URL).wantExit(t, 0)
	r := b.rotate("sr", "convert", b.path("pulled"), "--names", b.path("pulled", "pool.xml"), "--define", "web", "--to", b.path("images")).wantExit(t, 0)
	wantTold(t, r, "defined domain web", "on IDE", `"night 1", VDI `)

	list := b.virsh("snapshot-list", "--name", "web")
	for n := 1; n < moments; n++ {
		if want := "xenserver-" + momentTime(n).Format("20060102T150405Z"); !strings.Contains(list, want) {
			t.Errorf("%s is missing: %s", want, list)
		}
	}
	b.wantMoments("web", []string{"hda", "hdb"}, root, data)
	b.goesOnHere("web")
	if n := s.Sessions(); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

// liveHost is a host with the guest, which is shut off.
func liveHost(t *testing.T, disks ...[moments][]byte) *xapitest.Server {
	t.Helper()
	s := xapitest.New(t)
	vm := s.VM(1, "web", "Halted")
	s.Set("VM", vm, "memory_static_max", "33554432")
	s.Set("VM", vm, "HVM_boot_policy", "BIOS order")
	s.Set("VM", vm, "HVM_boot_params", map[string]string{"order": "c"})
	var refs []string
	for i, content := range disks {
		refs = append(refs, s.Disk(i+1, vm, fmt.Sprint(i), "disk", xapitest.Disk{Content: content[0]}))
	}
	for n := range moments {
		for i, ref := range refs {
			s.Fill(ref, xapitest.Disk{Content: disks[i][n]})
		}
		if n < moments-1 {
			s.Snapshot(vm, fmt.Sprint("night ", n+1), momentTime(n+1).Format("20060102T15:04:05Z"))
		}
	}
	return s
}

// So does the guest of an export, whose snapshots are whole disks there.
func TestAGuestOfAnExportComesWithItsSnapshots(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	root, data := guestDisks(t)
	machines := []xvatest.Machine{{ID: "Ref:1", Name: "web", UUID: guestVM, Fields: map[string]string{"memory_static_max": "33554432", "VCPUs_max": "1", "HVM_boot_policy": "BIOS order"},
		Maps: map[string]map[string]string{"HVM_boot_params": {"order": "c"}}}}
	var disks []xvatest.Disk
	for n := range moments {
		vm := "Ref:1"
		if n < moments-1 {
			vm = fmt.Sprintf("Ref:%d", 10+n)
			machines = append(machines, xvatest.Machine{ID: vm, Name: fmt.Sprint("night ", n+1), UUID: snapVM(n + 1), SnapshotOf: "Ref:1", Time: momentTime(n + 1).Format("20060102T15:04:05Z")})
		}
		for i, content := range [][]byte{root[n], data[n]} {
			d := xvatest.Disk{ID: fmt.Sprintf("Ref:%d", 100+10*n+i), UUID: snapVDI([]string{rootDisk, dataDisk}[i], n+1), Name: "disk", Device: fmt.Sprint(i), Drive: "Disk", VM: vm, Content: content}
			disks = append(disks, d)
		}
	}
	slices.Reverse(disks) // of the guest itself first
	must(t, os.WriteFile(b.path("web.xva"), xvatest.Zstd(xvatest.Tar(xvatest.MembersOf(machines, false, disks...))), 0o600))
	b.writePolicy(keepThreeNights)
	r := b.rotate("sr", "convert", b.path("web.xva"), "--define", "web", "--to", b.path("images"), "--bus", "ide").wantExit(t, 0)
	wantTold(t, r, "defined domain web", `which is "night 2"`)
	b.wantMoments("web", []string{"hda", "hdb"}, root, data)
	b.goesOnHere("web")
}

// And the guest of a repository on a physical volume, of which the second disk has a snapshot,
// and the first none.
func TestAGuestOfAPhysicalVolumeComesWithItsSnapshots(t *testing.T) {
	t.Parallel()
	const disk, snapshot, data = "a5cbb80f-6dcb-521e-b428-3f32b185fb79", "d7193eeb-8fa5-5df8-afbf-1e02e019d2dd", "e5028207-ece8-5c51-b10d-22606ca87a63"
	b := newBed(t)
	archive, err := filepath.Abs(filepath.Join("..", "vhdbridge", "lvm2", "testdata", "repository.tar.zst"))
	must(t, err)
	if out, err := exec.Command("tar", "--zstd", "-Sxf", archive, "--strip-components=1", "-C", b.host.Dir()).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	pv := b.path("pv.img")
	b.rotate("sr", "convert", pv, "--vdi", disk, "--vdi", snapshot, "--vdi", data, "--to", b.path("as-it-was")).wantExit(t, 0)
	was := func(vdi string) []byte { return b.raw(b.path("as-it-was", vdi+".qcow2"), "qcow2") }
	now, then, other := was(disk), was(snapshot), was(data)
	makeBootable(t, pv, other[:512], bootSector(t))
	copy(other, bootSector(t))
	row := `<row ref="%s" uuid="%s" name__label="%s"/>`
	database := `<database><table name="VM"><row ref="v" uuid="` + guestVM + `" name__label="db" memory__static_max="33554432" VCPUs__max="1" HVM__boot_policy="BIOS"/>` +
		`<row ref="s" uuid="` + snapVM(1) + `" name__label="before%.the%.upgrade" is_a_snapshot="true" snapshot_of="v" snapshot_time="20240117T03:15:00Z"/></table><table name="VDI">` +
		fmt.Sprintf(row, "a", disk, "db-disk") + fmt.Sprintf(row, "b", data, "data") +
		`<row ref="c" uuid="` + snapshot + `" name__label="db-disk" is_a_snapshot="true" snapshot_of="a" snapshot_time="20240117T03:15:00Z"/></table><table name="VBD">` +
		`<row ref="1" VM="v" VDI="a" userdevice="1" type="Disk"/><row ref="2" VM="v" VDI="b" userdevice="0" type="Disk" bootable="true"/><row ref="3" VM="s" VDI="c" userdevice="1" type="Disk"/></table></database>`
	must(t, os.WriteFile(b.path("state.db"), []byte(database), 0o600))
	b.writePolicy(keepThreeNights)
	r := b.rotate("sr", "convert", pv, "--names", b.path("state.db"), "--define", "db", "--to", b.path("images")).wantExit(t, 0)
	wantTold(t, r, "defined domain db", `the snapshot "before the upgrade", VDI `+snapshot+" has nothing of the disk "+data)
	names := b.snapshotNames("db")
	if len(names) != 1 || names[0] != "xenserver-20240117T031500Z" {
		t.Fatalf("%q", names)
	}
	for what, c := range map[string]struct {
		path string
		want []byte
	}{"then": {b.stateLayer("db", names[0], "hdb"), then}, "now": {b.disk("db", "hdb").Path, now}, "boot": {b.disk("db", "hda").Path, other}} {
		if got := sumOf(b.raw(c.path, "qcow2")); got != sumOf(c.want) {
			t.Errorf("%s, %s: %s", what, c.path, got)
		}
	}
	statusKeeps(t, b, 1)
	b.bootsAndWrites("db", "hdb")
	b.rotate("run", "--now").wantExit(t, 0)
	b.destroy("db")
	if names := b.snapshotNames("db"); len(names) != 2 {
		t.Errorf("%q", names)
	}
}

// makeBootable puts another sector in the place of one that a physical volume has once.
func makeBootable(t *testing.T, pv string, was, sector []byte) {
	t.Helper()
	f, err := os.OpenFile(pv, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	info, err := f.Stat()
	must(t, err)
	buffer, found := make([]byte, 4<<20), int64(-1)
	for at := int64(0); at < info.Size(); at += int64(len(buffer)) {
		n, _ := f.ReadAt(buffer, at)
		for off := 0; off+512 <= n; off += 512 {
			if bytes.Equal(buffer[off:off+512], was) {
				if found >= 0 {
					t.Fatal("the sector is there twice")
				}
				found = at + int64(off)
			}
		}
	}
	if found < 0 {
		t.Fatal("the sector is not there")
	}
	_, err = f.WriteAt(sector, found)
	must(t, err)
}

// fakeV2V stands for virt-v2v-in-place: it writes to the disks that the XML names, or fails.
const fakeV2V = `#!/bin/sh
[ "$1" = -i ] && [ "$2" = libvirtxml ] || exit 9
for disk in $(sed -n 's/.*<source file="\([^"]*\)".*/\1/p' "$3"); do
	qemu-io -f qcow2 -c 'write -P 0xf1 2m 64k' "$disk" || exit 8
done
exit %d
`

// A guest is changed for KVM in layers of their own: what was below is one more snapshot. If
// that fails nothing is left of it, and all else is defined.
func TestAGuestIsChangedAboveItsSnapshots(t *testing.T) {
	long(t)
	t.Parallel()
	b := newBed(t)
	root, data := guestDisks(t)
	must(t, os.Mkdir(b.path("sr"), 0o755))
	must(t, os.Mkdir(b.path("bin"), 0o755))
	writeVHDs(t, b.path("sr"), rootDisk, root)
	writeVHDs(t, b.path("sr"), dataDisk, data)
	must(t, os.WriteFile(b.path("pool.xml"), []byte(poolXML("web")), 0o600))
	b.writePolicy(keepThreeNights)
	b.env = []string{"PATH=" + b.path("bin") + ":" + os.Getenv("PATH")}
	convert := func(name string, exit int) result {
		return b.rotate("sr", "convert", b.path("sr"), "--names", b.path("pool.xml"), "--vm", "web", "--define", name, "--to", b.path("to-"+name), "--fix-guest").wantExit(t, exit)
	}
	must(t, os.WriteFile(b.path("bin/virt-v2v-in-place"), fmt.Appendf(nil, fakeV2V, 1), 0o755))
	r := convert("failed", 3)
	wantTold(t, r, "the guest was not changed", "virtio_blk", "defined domain failed")
	b.wantMoments("failed", []string{"hda", "hdb"}, root, data)
	if files, err := filepath.Glob(b.path("to-failed", "*.qcow2")); err != nil || len(files) != 2*moments {
		t.Errorf("%q %v", files, err)
	}

	must(t, os.WriteFile(b.path("bin/virt-v2v-in-place"), fmt.Appendf(nil, fakeV2V, 0), 0o755))
	r = convert("fixed", 0)
	wantTold(t, r, "the guest was changed", "the state before the guest was changed", "another domain here has the guest's UUID")
	names := b.snapshotNames("fixed")
	if len(names) != moments {
		t.Fatalf("%q", names)
	}
	sums := b.stateSums("fixed", "vda", "vdb")
	for n := range moments {
		if sums[n][0] != sumOf(root[n]) || sums[n][1] != sumOf(data[n]) {
			t.Errorf("moment %d has changed", n)
		}
	}
	changed := slices.Clone(root[moments-1])
	copy(changed[2<<20:], bytes.Repeat([]byte{0xf1}, 64<<10))
	if sums[moments][0] != sumOf(changed) {
		t.Error("the guest has not changed")
	}
	b.bootsAndWrites("fixed", "vdb")
	b.rotate("run", "--now", "fixed").wantExit(t, 0)
	b.destroy("fixed")
	b.rotate("doctor", "fixed").wantExit(t, 0)
}

// The variables that a guest of XenServer booted by are those of its firmware here, and UEFI
// takes them for its own: it adds to them.
func TestAGuestBootsByItsUEFIVariables(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	root, _ := guestDisks(t)
	entry := append([]byte{1, 0, 0, 0, 4, 0}, []byte("f\x00r\x00o\x00m\x00-\x00x\x00e\x00n\x00\x00\x00\x7f\xff\x04\x00")...) // attributes, length of the path, "from-xen", end of the path
	machines := []xvatest.Machine{{ID: "Ref:1", Name: "web", UUID: guestVM, Fields: map[string]string{"memory_static_max": "268435456", "VCPUs_max": "1", "HVM_boot_policy": "BIOS order"},
		Maps: map[string]map[string]string{"HVM_boot_params": {"order": "c", "firmware": "uefi"}, "NVRAM": {"EFI-variables": base64.StdEncoding.EncodeToString(varstored("Boot0042", entry))}}}}
	disk := xvatest.Disk{ID: "Ref:4", UUID: rootDisk, Name: "disk", Device: "0", Drive: "Disk", VM: "Ref:1", Content: root[0]}
	must(t, os.WriteFile(b.path("web.xva"), xvatest.Tar(xvatest.MembersOf(machines, false, disk)), 0o600))
	b.rotate("sr", "convert", b.path("web.xva"), "--define", "web", "--to", b.path("images")).wantExit(t, 0)
	vars := b.path("images/web_VARS.fd")
	if xml := b.virsh("dumpxml", "web"); !strings.Contains(xml, vars) || !strings.Contains(xml, "pflash") {
		t.Errorf("%s", xml)
	}
	before, err := os.ReadFile(vars)
	must(t, err)
	if !bytes.Contains(before, entry) {
		t.Error("the entry is not in the file")
	}
	b.emulated("web")
	b.virsh("start", "web")
	must(t, guest.Await(t.Context(), "the firmware to add variables", func() (bool, error) {
		now, err := os.ReadFile(vars)
		return bytes.Contains(now, []byte("B\x00o\x00o\x00t\x00O\x00r\x00d\x00e\x00r\x00")), err
	}))
	b.destroy("web")
	if after, err := os.ReadFile(vars); err != nil || !bytes.Contains(after, entry) || bytes.Equal(after, before) {
		t.Errorf("the firmware has dropped the entry: %v", err)
	}
	r := b.rotate("sr", "convert", b.path("web.xva"), "--define", "web", "--to", b.path("images"))
	if r.Exit != 4 || !strings.Contains(r.Stderr, "is there already") {
		t.Errorf("%v", r)
	}
}

// varstored is one variable as XenServer's database has it.
func varstored(name string, data []byte) []byte {
	le := endian.LittleEndian
	var body []byte
	body = le.AppendUint64(body, uint64(2*len(name)))
	for _, c := range []byte(name) {
		body = append(body, c, 0)
	}
	body = append(le.AppendUint64(body, uint64(len(data))), data...)
	body = append(body, 0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c)
	body = le.AppendUint32(body, 7)
	body = append(body, make([]byte, 16+32)...)
	b := le.AppendUint32([]byte("VARS"), 1)
	b = le.AppendUint64(le.AppendUint64(b, 1), uint64(len(body)))
	return append(b, body...)
}
