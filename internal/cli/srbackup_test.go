package cli

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

const backupPool = "12345678-0000-4000-8000-000000000001"

// backupDisk makes backup.raw as xe-backup-metadata does, with dumps in which c5's guest is called
// like that, the newest first.
func backupDisk(t *testing.T, guests ...string) {
	t.Helper()
	shell(t, ".", "rm -f backup.raw && qemu-img create -q -f raw backup.raw 500M && mkfs.ext3 -q -j -F backup.raw")
	for i, name := range guests {
		db := `<database><table name="VM"><row ref="v" uuid="u1" name__label="` + name + `"/></table><table name="VDI"><row ref="d" uuid="c5" name__label="root" managed="true"/></table>` +
			`<table name="VBD"><row ref="b" VM="v" VDI="d" type="Disk" userdevice="0"/></table></database>`
		writeTestFile(t, "dump", []byte(db))
		file := backupPool + ".db"
		if i > 0 {
			file += fmt.Sprint(".", i)
		}
		shell(t, ".", "debugfs -w -f /dev/stdin backup.raw <<< $'write dump "+file+"\\nmkdir metadata' >/dev/null 2>&1; true")
	}
}

// The disk that xe-backup-metadata writes to is taken for --names as it is: the newest dump in it
// tells.
func TestNamesComeOutOfAMetadataBackup(t *testing.T) {
	sample(t, "01-linear")
	backupDisk(t, "newest", "older", "oldest")
	must(t, "image", "convert", "-f", "raw", "-O", "vhd", "backup.raw", "backup.vhd")
	must(t, "image", "convert", "-f", "raw", "-O", "qcow2", "backup.raw", "backup.qcow2")
	for _, file := range []string{"backup.raw", "backup.vhd", "backup.qcow2"} {
		before := fileSum(t, file)
		out, errs, code := call(t, "sr", "scan", "sr", "--names", file)
		if code != 0 || !strings.Contains(out, `disk 0 of "newest"`) || !strings.Contains(errs, "names are from "+backupPool+".db on it, of 20") {
			t.Errorf("%s: %d %s%s", file, code, out, errs)
		}
		if fileSum(t, file) != before {
			t.Errorf("%s has changed", file)
		}
	}
	_, errs, code := call(t, "sr", "convert", "sr", "--names", "backup.vhd", "--vm", "newest", "--to", "out")
	if code != 0 || strings.Count(errs, "names are from") != 1 || len(namesIn(t, "out")) != 1 {
		t.Errorf("%d %s", code, errs)
	}
}

// Without a newest one, the newest that there is; of two pools, the one that was backed up last.
func TestTheNewestDumpOfABackupIsTaken(t *testing.T) {
	sample(t, "01-linear")
	backupDisk(t, "newest", "older", "oldest")
	shell(t, ".", "debugfs -w -R 'rm "+backupPool+".db' backup.raw 2>/dev/null")
	if out := must(t, "sr", "scan", "sr", "--names", "backup.raw"); !strings.Contains(out, `"older"`) {
		t.Error(out)
	}
	for when, want := range map[string]string{"20300101000000": "of another pool", "20010101000000": "newest"} {
		backupDisk(t, "newest")
		writeTestFile(t, "dump", []byte(`<database><table name="VM"><row ref="v" uuid="u2" name__label="of another pool"/></table><table name="VDI"><row ref="d" uuid="c5" managed="true"/></table>`+
			`<table name="VBD"><row ref="b" VM="v" VDI="d" type="Disk" userdevice="0"/></table></database>`))
		shell(t, ".", "debugfs -w -R 'write dump other.db' backup.raw 2>/dev/null >&2; debugfs -w -R 'set_inode_field other.db mtime "+when+"' backup.raw 2>/dev/null")
		if out := must(t, "sr", "scan", "sr", "--names", "backup.raw"); !strings.Contains(out, want) {
			t.Errorf("%s: %s", when, out)
		}
	}
}

// A backup that is damaged, or made to do harm, is told in bounded time.
func TestAHostileBackupIsTold(t *testing.T) {
	sample(t, "01-linear")
	for what, do := range map[string]string{
		"no dump":           "true",
		"a file of zeros":   "debugfs -w -R 'write /dev/null x.db' backup.raw && debugfs -w -R 'set_inode_field x.db size 0x10000000000' backup.raw",
		"another name":      "debugfs -w -R 'write dump pool.xml' backup.raw",
		"a link":            "debugfs -w -R 'symlink x.db /etc/passwd' backup.raw",
		"a dump cut off":    "head -c 100 dump > half && debugfs -w -R 'write half x.db' backup.raw",
		"a broken table":    "dd if=/dev/urandom of=backup.raw bs=4096 seek=1 count=64 conv=notrunc status=none",
		"a name that talks": "debugfs -w -R 'write dump x\x1b[2J.db' backup.raw",
	} {
		backupDisk(t, "newest")
		shell(t, ".", "debugfs -w -R 'rm "+backupPool+".db' backup.raw 2>/dev/null; ("+do+") >/dev/null 2>&1")
		begin := time.Now()
		_, errs, code := call(t, "sr", "scan", "sr", "--names", "backup.raw")
		if code != term.ExitFailed || !strings.Contains(errs, "backup.raw") || strings.Contains(errs, "\x1b") || len(errs) > 4000 || time.Since(begin) > 2*time.Minute {
			t.Errorf("%s: %d, %v: %s", what, code, time.Since(begin), errs)
		}
	}
	backupDisk(t, "newest")
	sound, err := os.ReadFile("backup.raw")
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 20 {
		b := []byte(strings.Clone(string(sound[:1<<20])))
		for range 1 + r.IntN(40) {
			b[1080+r.IntN(len(b)-1080)] = byte(r.Uint32())
		}
		f, err := os.OpenFile("backup.raw", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if out, errs, code := call(t, "sr", "scan", "sr", "--names", "backup.raw"); code == 0 != strings.Contains(out, `"newest"`) {
			t.Errorf("%d %s%s", code, out, errs)
		}
	}
}
