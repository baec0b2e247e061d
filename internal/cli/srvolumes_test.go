package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/sr"
)

// volumes unpacks a repository on a physical volume into a directory, which is the current one.
func volumes(t *testing.T) {
	t.Helper()
	archive, err := filepath.Abs(filepath.Join("..", "..", "vhdbridge", "lvm2", "testdata", "repository.tar.zst"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, "tar --zstd -Sxf "+archive+" --strip-components=1")
}

// A repository is read from the physical volume that it is on, or from a copy of that in an
// image: every disk has the content that its maker told.
func TestSRReadsPhysicalVolumes(t *testing.T) {
	volumes(t)
	shell(t, ".", "qemu-img convert -f raw -O qcow2 pv.img lun.qcow2")
	before := fileSum(t, "pv.img")
	sums := sumsOf(t)
	for _, pv := range []string{"pv.img", "lun.qcow2"} {
		var report sr.ScanReport
		code, out, stderr := try(t, "sr", "scan", "--output=json", pv)
		if code != 0 || stderr != "" {
			t.Fatalf("%d %s", code, stderr)
		}
		decodeJSON(t, out, &report)
		if len(report.Nodes) != 8 || report.Totals.Coalesce != 0 {
			t.Errorf("%d nodes, %+v", len(report.Nodes), report.Totals)
		}
		i := slices.IndexFunc(report.Nodes, func(n sr.Node) bool { return n.Known != nil && n.Known.Snapshot })
		if i < 0 || report.Nodes[i].Known.Name != "db-disk" || report.Nodes[i].Known.SnapshotTime != "2024-01-17T03:15:00Z" {
			t.Errorf("%d %+v", i, report.Nodes)
		}
		if code, out, _ := try(t, "sr", "check", pv); code != 0 || strings.Count(out, ": no errors") != 8 {
			t.Errorf("%d %s", code, out)
		}
		to := "to-" + pv
		if code, _, stderr := try(t, "sr", "convert", pv, "--to", to); code != 0 {
			t.Fatalf("%d %s", code, stderr)
		}
		made, err := filepath.Glob(to + "/*.qcow2")
		if err != nil || len(made) != 5 {
			t.Fatalf("%v %v", made, err)
		}
		for _, path := range made {
			vdi := strings.TrimSuffix(filepath.Base(path), ".qcow2")
			if got, want := guestSum(t, "qcow2", path), sums["VHD-"+vdi]; got != want {
				t.Errorf("%s: %s, want %s", path, got, want)
			}
		}
	}
	if fileSum(t, "pv.img") != before {
		t.Error("the physical volume was written to")
	}
}

// What cannot be read as one is told, and where.
func TestSRTellsWhatIsNoPhysicalVolume(t *testing.T) {
	volumes(t)
	shell(t, ".", "mkdir dir; truncate -s 30M part; dd if=pv.img of=part bs=1M count=30 conv=notrunc status=none; head -c 1M /dev/zero > zeros")
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"sr", "scan", "zeros"}, 1, "zeros: no physical volume of LVM2"},
		{[]string{"sr", "scan", "dir", "pv.img"}, 2, "want one directory, or the physical volumes of one repository"},
		{[]string{"sr", "scan", "part"}, 3, "the copy is not whole"},
		{[]string{"sr", "convert", "part", "--to", "to"}, 3, "the copy is not whole"},
		{[]string{"sr", "coalesce", "pv.img"}, 4, "it is a device"},
	} {
		code, out, stderr := try(t, c.args...)
		if text := out + stderr; code != c.code || !strings.Contains(text, c.want) {
			t.Errorf("%q: %d\n%s", c.args, code, text)
		}
	}
	if _, err := os.Stat("pv.img"); err != nil {
		t.Error(err)
	}
}

// A repository of files is told what its VDIs are called.
func TestSRScanTakesNamesFromThePool(t *testing.T) {
	sample(t, "01-linear")
	code, out, _ := try(t, "sr", "scan", "--output=json", "sr")
	var report sr.ScanReport
	decodeJSON(t, out, &report)
	if code != 0 || len(report.Nodes) == 0 {
		t.Fatalf("%d %s", code, out)
	}
	i := slices.IndexFunc(report.Nodes, func(n sr.Node) bool { return !n.Hidden })
	vdi := strings.TrimSuffix(report.Nodes[i].Name, ".vhd")
	database := `<database><table name="VM"><row ref="v" name__label="web%.1"/></table><table name="VDI"><row ref="d" uuid="` + vdi +
		`" name__label="root" managed="true"/></table><table name="VBD"><row VM="v" VDI="d" type="Disk" userdevice="0"/></table></database>`
	if err := os.WriteFile("pool.xml", []byte(database), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, stderr := try(t, "sr", "scan", "--names", "pool.xml", "sr"); code != 0 || !strings.Contains(out, `  "root", disk 0 of "web 1"`) {
		t.Errorf("%d %s%s", code, out, stderr)
	}
	code, out, _ = try(t, "sr", "scan", "--names", "pool.xml", "--output=json", "sr")
	decodeJSON(t, out, &report)
	if k := report.Nodes[i].Known; code != 0 || k == nil || k.VM != "web 1" || k.Device != "0" || k.Name != "root" {
		t.Errorf("%d %+v", code, k)
	}
	for name, want := range map[string]string{"none.xml": "no such file", "SHA256SUMS": "SHA256SUMS: line 1"} {
		if code, _, stderr := try(t, "sr", "scan", "--names", name, "sr"); code != 1 || !strings.Contains(stderr, want) {
			t.Errorf("%s: %d %s", name, code, stderr)
		}
	}
}
