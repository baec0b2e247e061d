package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

// names writes pool.xml, in which the disks are those of a guest, with its snapshots.
func (x *xen) names(of map[string]string) {
	var vm, vdi, vbd strings.Builder
	for i, disk := range []string{"disk1", "disk2"} {
		fmt.Fprintf(&vdi, `<row ref="%[1]s" uuid="%[1]s" name__label="d" managed="true"/>`, disk)
		fmt.Fprintf(&vbd, `<row ref="b%d" VM="v" VDI="%s" type="Disk" userdevice="%d"/>`, i, disk, i)
	}
	for snap, disk := range of {
		fmt.Fprintf(&vdi, `<row ref="%[1]s" uuid="%[1]s" name__label="s" is_a_snapshot="true" snapshot_of="%[2]s" snapshot_time="20240501T00:00:00Z"/>`, snap, disk)
		fmt.Fprintf(&vm, `<row ref="of%[1]s" uuid="of%[1]s" name__label="%[1]s" is_a_snapshot="true" snapshot_of="v" snapshot_time="20240501T00:00:00Z"/>`, snap)
		fmt.Fprintf(&vbd, `<row ref="b%[1]s" VM="of%[1]s" VDI="%[1]s" type="Disk" userdevice="%[2]d"/>`, snap, slices.Index([]string{"disk1", "disk2"}, disk))
	}
	writeTestFile(x.T, "pool.xml", []byte(`<database><table name="VM"><row ref="v" uuid="u" name__label="web"/>`+vm.String()+`</table><table name="VDI">`+vdi.String()+`</table><table name="VBD">`+vbd.String()+`</table></database>`))
}

// With names the images are what they are without, by other names; nothing is written but those.
func TestSRConvertAgainRenamesImages(t *testing.T) {
	const full = 32 << 20
	x := newXen(t, full, 12)
	own := make([]byte, full)
	for i := range own {
		own[i] = byte(x.r.Uint32() | 1)
	}
	disk := x.disk(own)
	snap := x.snapshot(disk)
	x.scribble(disk)
	x.names(map[string]string{snap: disk})
	must(t, "sr", "convert", "sr", "--to", "out")
	base := inode(t, "out/base2.qcow2")
	shell(t, ".", "qemu-img create -q -f qcow2 -F qcow2 -b "+disk+".qcow2 out/trial.qcow2")
	before := withoutLocks(dirSums(t, "out"))
	for _, line := range []string{"--again --dry-run", "--again"} {
		code, _, errs := try(t, append([]string{"sr", "convert", "sr", "--to", "out", "--names", "pool.xml"}, strings.Fields(line)...)...)
		if code != term.ExitRefused || !strings.Contains(errs, "trial.qcow2") || !slices.Equal(withoutLocks(dirSums(t, "out")), before) {
			t.Errorf("%s: %d %s", line, code, errs)
		}
	}
	if err := os.Remove("out/trial.qcow2"); err != nil {
		t.Fatal(err)
	}
	var told struct {
		Renamed []struct{ Image, Was string }
		Removed []string
	}
	out := must(t, "sr", "convert", "sr", "--to", "out", "--names", "pool.xml", "--again", "--dry-run", "--output=json")
	if err := json.Unmarshal([]byte(out), &told); err != nil || len(told.Renamed) != 3 || told.Renamed[0].Was != "out/base2.qcow2" || told.Renamed[0].Image != "out/web-disk0-base-base2.qcow2" {
		t.Errorf("%v: %s", err, out)
	}
	read, written := x.io(func() { out = must(t, "sr", "convert", "sr", "--to", "out", "--names", "pool.xml", "--again") })
	if read > 3<<20 || written > 1<<20 || !strings.Contains(out, "other names for 3 images") {
		t.Errorf("%d bytes read and %d written\n%s", read, written, out)
	}
	if inode(t, "out/web-disk0-base-base2.qcow2") != base {
		t.Error("the base is another file")
	}
	x.asFresh("out", "--names", "pool.xml")
	if names := withoutLocks(namesIn(t, "out")); len(names) != 3 {
		t.Errorf("%q", names)
	}
}

// An image that a guest has run on is not renamed.
func TestSRConvertAgainDoesNotRenameWhatAGuestHasRunOn(t *testing.T) {
	x := newXen(t, 8<<20, 13)
	disk := x.disk([]byte("first"))
	x.names(nil)
	must(t, "sr", "convert", "sr", "--to", "out")
	shell(t, ".", "qemu-io -f qcow2 -c 'write -q -P 9 1M 64k' out/"+disk+".qcow2")
	before := withoutLocks(dirSums(t, "out"))
	code, _, errs := try(t, "sr", "convert", "sr", "--to", "out", "--names", "pool.xml", "--again")
	if code != term.ExitRefused || !strings.Contains(errs, "it has changed since it was made") || !slices.Equal(withoutLocks(dirSums(t, "out")), before) {
		t.Errorf("%d %s", code, errs)
	}
}
