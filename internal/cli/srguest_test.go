package cli

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/vhdbridge/xva/xvatest"
)

// snapshotExport is an export of web with two snapshots, each with both disks; the second disk
// is the same in both. Raw files beside it have what each layer is to read as.
func snapshotExport(t *testing.T) {
	t.Helper()
	t.Chdir(t.TempDir())
	machines := []xvatest.Machine{
		{ID: "Ref:2", Name: "second", SnapshotOf: "Ref:1", Time: "20240118T03:15:00Z"}, {ID: "Ref:1", Name: "web/1", UUID: "11111111-0000-0000-0000-000000000001"},
		{ID: "Ref:3", Name: "first\n", SnapshotOf: "Ref:1", Time: "20240117T03:15:00Z"},
	}
	var disks []xvatest.Disk
	for i, of := range []struct{ vm, when string }{{"Ref:2", "second"}, {"Ref:1", "now"}, {"Ref:3", "first"}} {
		for n, device := range []string{"0", "1"} {
			content := make([]byte, 9<<20+512)
			copy(content[1<<20:], bytes.Repeat([]byte{7}, 3<<20))
			at := map[string]int{"first": 2, "second": 4, "now": 6}[of.when]
			if n == 0 || of.when == "now" {
				copy(content[at<<20:], bytes.Repeat([]byte{byte(at)}, 1<<20))
			}
			if n == 0 && of.when == "now" { // zeros over data
				copy(content[3<<20:], make([]byte, 1<<19))
			}
			writeTestFile(t, fmt.Sprintf("%s-%d.raw", of.when, n), content)
			d := xvatest.Disk{ID: fmt.Sprintf("Ref:%d", 10+2*i+n), UUID: fmt.Sprintf("%08d-0000-0000-0000-00000000000%d", i, n), Name: "d", Device: device, Drive: "Disk", VM: of.vm, Used: 5 << 20, Content: content}
			if of.vm != "Ref:1" {
				d.SnapshotOf = fmt.Sprintf("Ref:%d", 12+n)
			}
			disks = append(disks, d)
		}
	}
	writeTestFile(t, "web.xva", xvatest.Tar(xvatest.MembersOf(machines, false, disks...)))
}

// The whole disks that an export has of snapshots become chains of layers, each with what it reads
// as, and no more than differs.
func TestAnExportWithSnapshotsBecomesChains(t *testing.T) {
	snapshotExport(t)
	must(t, "sr", "convert", "web.xva", "--to", "out", "--vm", "web/1")
	const first, second = ".xenserver-20240117T031500Z", ".xenserver-20240118T031500Z"
	want := []string{"web-1-disk0.qcow2", "web-1-disk0" + first + ".qcow2", "web-1-disk0" + second + ".qcow2", "web-1-disk1.qcow2", "web-1-disk1" + first + ".qcow2", "web-1-disk1" + second + ".qcow2"}
	if names := namesIn(t, "out"); !sameSet(names, want) {
		t.Errorf("%q", names)
	}
	for n := range 2 {
		stem := fmt.Sprintf("out/web-1-disk%d", n)
		sameDisk(t, "qcow2", fmt.Sprintf("first-%d.raw", n), stem+".qcow2")
		sameDisk(t, "qcow2", fmt.Sprintf("second-%d.raw", n), stem+first+".qcow2")
		sameDisk(t, "qcow2", fmt.Sprintf("now-%d.raw", n), stem+second+".qcow2")
	}
	if info, err := os.Stat("out/web-1-disk1" + first + ".qcow2"); err != nil || info.Size() > 1<<20 {
		t.Errorf("a layer without changes: %v %v", info.Size(), err)
	}
	code, out, _ := try(t, "sr", "convert", "web.xva", "--to", "dry", "--vm", "web/1", "--dry-run", "--output=json")
	if code != 0 || strings.Count(out, "web-1-disk") < 6 || !strings.Contains(out, `"guest": "web/1"`) {
		t.Errorf("%d %s", code, out)
	}
	if code, _, errs := try(t, "sr", "convert", "web.xva", "--to", "out", "--vm", "web/1"); code != term.ExitRefused || !strings.Contains(errs, "is there already") {
		t.Errorf("%d %s", code, errs)
	}
	must(t, "sr", "convert", "web.xva", "--to", "only", "--vm", "web/1", "--domain-xml", domainXMLFile(t), "--no-snapshots", "-q")
	if names := namesIn(t, "only"); !sameSet(names, []string{"web-1-disk0.qcow2", "web-1-disk1.qcow2"}) {
		t.Errorf("%q", names)
	}
	sameDisk(t, "qcow2", "now-1.raw", "only/web-1-disk1.qcow2")
}

func sameSet(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}

func domainXMLFile(t *testing.T) string {
	t.Helper()
	disk := func(dev string) string {
		return "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/x'/><target dev='" + dev + "' bus='ide'/></disk>"
	}
	writeTestFile(t, "domain.xml", []byte("<domain type='qemu'><name>x</name><memory>1024</memory><os><type>hvm</type></os><devices>"+disk("hda")+disk("hdb")+"</devices></domain>"))
	return "domain.xml"
}

// A damaged export leaves nothing, with layers as without.
func TestADamagedExportBecomesNoChains(t *testing.T) {
	snapshotExport(t)
	b, err := os.ReadFile("web.xva")
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	writeTestFile(t, "bad.xva", b)
	if _, errs, code := call(t, "sr", "convert", "bad.xva", "--to", "out", "--vm", "web/1"); code != term.ExitFailed {
		t.Errorf("%d %s", code, errs)
	}
	if _, err := os.Stat("out"); err == nil {
		t.Errorf("%q", namesIn(t, "out"))
	}
}

// What makes no sense is refused before anything is read of the disks.
func TestGuestsThatCannotBeChosen(t *testing.T) {
	snapshotExport(t)
	sample := "sr convert web.xva --to x "
	for line, want := range map[string]string{
		sample + "--vm nobody":                              `no such VM as "nobody"`,
		sample + "--vm web/1 --vdi x":                       "does not go with --vdi",
		sample + "--vm web/1 --salvage":                     "--salvage",
		sample + "--vm web/1 -O raw":                        "make chains",
		sample + "--names web.xva":                          "tells itself",
		sample + "--bus ide":                                "go with --define",
		sample + "--define a --bus scsi":                    "want auto, virtio, sata, ide",
		sample + "--define a --network br0":                 "bridge:BRIDGE",
		sample + "--fix-guest":                              "go with --define",
		sample + "--define a --policy-name a/b --vm nobody": "--policy-name",
	} {
		_, errs, code := call(t, strings.Fields(line)...)
		if code != term.ExitUsage || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d, %s", line, code, errs)
		}
	}
	if _, err := os.Stat("x"); err == nil {
		t.Error("x was made")
	}
}

// With names, convert calls files, and check tells nodes, by guests and disks; without, nothing
// is other than it was.
func TestRepositoriesAreToldByGuestsAndDisks(t *testing.T) {
	sample(t, "01-linear")
	shell(t, ".", "qemu-img create -q -f raw fs.raw 2M && mkfs.ext3 -q -F fs.raw")
	db := `<database><table name="VM"><row ref="v" uuid="u1" name__label="../web%.1%n"/></table><table name="VDI"><row ref="d" uuid="c5" name__label="root" managed="true"/></table>` +
		`<table name="VBD"><row ref="b" VM="v" VDI="d" type="Disk" userdevice="0"/></table></database>`
	writeTestFile(t, "pool.xml", []byte(db))
	before := dirSums(t, "sr")
	must(t, "sr", "convert", "sr", "--to", "plain", "--keep-all")
	must(t, "sr", "convert", "sr", "--to", "named", "--keep-all", "--names", "pool.xml")
	if names := namesIn(t, "plain"); !sameSet(names, []string{"base.qcow2", "c1.qcow2", "c2.qcow2", "c3.qcow2", "c4.qcow2", "c5.qcow2"}) {
		t.Errorf("%q", names)
	}
	want := []string{"web-1-disk0.qcow2", "web-1-disk0-base-base.qcow2", "web-1-disk0-base-c1.qcow2", "web-1-disk0-base-c2.qcow2", "web-1-disk0-base-c3.qcow2", "web-1-disk0-base-c4.qcow2"}
	if names := namesIn(t, "named"); !sameSet(names, want) {
		t.Errorf("%q", names)
	}
	if a, b := guestSum(t, "qcow2", "plain/c5.qcow2"), guestSum(t, "qcow2", "named/web-1-disk0.qcow2"); a != b {
		t.Errorf("%s, %s", a, b)
	}
	out := must(t, "sr", "convert", "sr", "--to", "dry", "--names", "pool.xml", "--vm", "u1", "--dry-run", "--output=json")
	if !strings.Contains(out, `"named"`) || !strings.Contains(out, `"uuid": "c5"`) || !strings.Contains(out, "web-1-disk0.qcow2") {
		t.Errorf("%s", out)
	}
	if _, out, _ := try(t, "sr", "check", "--names", "pool.xml", "sr"); !strings.Contains(out, `c5.vhd ("root", disk 0 of "../web 1\n"): no errors`) {
		t.Errorf("%s", out)
	}
	for line, want := range map[string]string{
		"sr scan sr --names fs.raw":                                     "there is no dump in its root (POOL.db",
		"sr check sr --names fs.raw --names pool.xml":                   "fs.raw: it is a disk with an ext file system: of disks",
		"sr convert sr --to x --names pool.xml --names sr/base.vhd":     "a VHD: of disks, only that of a metadata backup has names, in files on it; there is no ext file system on it",
		"sr convert sr --to x --names pool.xml --vm nobody":             `there are "../web 1\n"`,
		"sr convert sr --to x --vm web":                                 "--names",
		"sr convert sr --to x --names pool.xml --vm u1 --vdi c5":        "does not go with --vdi",
		"sr convert sr --to x --names pool.xml --define web --vm other": "no such VM",
	} {
		_, errs, code := call(t, strings.Fields(line)...)
		if code == 0 || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d, %s", line, code, errs)
		}
	}
	if !slices.Equal(dirSums(t, "sr"), before) {
		t.Error("the repository has changed")
	}
}
