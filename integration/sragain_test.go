package integration_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/vhdbridge/srtest"
)

// childIO is what this process and the programs that it has waited for have read and written so
// far, in bytes.
func childIO(t *testing.T) (read, written int64) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/io")
	must(t, err)
	count := func(key string) int64 {
		_, rest, _ := strings.Cut(string(b), key+": ")
		text, _, _ := strings.Cut(rest, "\n")
		n, err := strconv.ParseInt(text, 10, 64)
		must(t, err)
		return n
	}
	return count("rchar"), count("wchar")
}

// largeDisk is a disk with 48 MiB of data in its first state, and some in the others.
func largeDisk() (disk [moments][]byte) {
	r := rand.NewChaCha8([32]byte{1})
	now := make([]byte, 56<<20)
	_, _ = r.Read(now[:48<<20]) // never fails
	for n := range moments {
		_, _ = r.Read(now[(49+n)<<20:][:1<<20])
		disk[n] = slices.Clone(now)
	}
	return disk
}

// A trial is converted by other names than the domain's images have, or by the same; the run that
// defines it reads and writes what the guest has written since, and metadata. All that the
// trial had is what it was, by other names.
func TestARunThatDefinesConvertsOnlyWhatHasChanged(t *testing.T) { // alone: it counts what is read and written
	const changed = 1 << 20
	_, data := guestDisks(t)
	root := largeDisk()
	for name, first := range map[string][]string{
		"by names": {"--names", "pool.xml", "--vm", "web"}, "by UUIDs": nil, "defined, too": {"--names", "pool.xml", "--vm", "web", "--define", "trial"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			sr := b.path("sr")
			must(t, os.Mkdir(sr, 0o755))
			writeVHDs(t, sr, rootDisk, root)
			writeVHDs(t, sr, dataDisk, data)
			b.longAgo("sr")
			must(t, os.WriteFile(b.path("pool.xml"), []byte(poolXML("web")), 0o600))
			b.writePolicy(keepThreeNights)
			convert := func(args ...string) result {
				t.Helper()
				return b.rotate(append([]string{"sr", "convert", sr, "--to", b.path("images")}, withPool(b, args)...)...).wantExit(t, 0)
			}
			convert(first...)
			if slices.Contains(first, "--define") {
				b.virsh("undefine", "trial", "--snapshots-metadata")
			}
			before := imagesBySize(t, b.path("images"))[0]

			now := root
			now[moments-1] = slices.Clone(root[moments-1])
			copy(now[moments-1][10<<20:], bytes.Repeat([]byte{0x77}, changed))
			rewriteLeaf(t, sr, rootDisk, now)
			define := []string{"--names", "pool.xml", "--vm", "web", "--define", "web", "--again"}
			dry := convert(append(define, "--dry-run")...)
			if strings.Count(dry.Stdout, "convert ") > 2 || !strings.Contains(dry.Stdout, "images as they were") {
				t.Errorf("%v", dry)
			}
			r0, w0 := childIO(t)
			run := convert(define...)
			r1, w1 := childIO(t)
			t.Logf("%d bytes read, %d written\n%s", r1-r0, w1-w0, run.Stdout)
			if r1-r0 > 24<<20 || w1-w0 > 8<<20 {
				t.Errorf("%d bytes read, %d written for %d that changed", r1-r0, w1-w0, changed)
			}
			if after := imagesBySize(t, b.path("images")); !os.SameFile(after[0], before) || len(after) != 2*moments {
				t.Errorf("the largest image is another one, or there are %d", len(after))
			}
			if !slices.Contains(first, "--define") { // the domain would lose its disks
				again := b.rotate(append([]string{"sr", "convert", sr, "--to", b.path("images"), "--again"}, withPool(b, first)...)...).wantExit(t, 4)
				wantTold(t, again, `on which the domain "web" was defined`)
			}
			b.wantMoments("web", []string{"hda", "hdb"}, now, data)
			b.rotate("run", "--now").wantExit(t, 0)
			b.rotate("doctor", "web").wantExit(t, 0)
			if left, err := filepath.Glob(b.path("images", "*.unfinished")); err != nil || len(left) > 0 {
				t.Errorf("%q", left)
			}
		})
	}
}

// withPool has the database named as it is on the bed.
func withPool(b *bed, args []string) (line []string) {
	for _, arg := range args {
		line = append(line, strings.Replace(arg, "pool.xml", b.path("pool.xml"), 1))
	}
	return line
}

// imagesBySize lists the images of a directory, the largest first.
func imagesBySize(t *testing.T, dir string) (images []os.FileInfo) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.qcow2"))
	must(t, err)
	for _, path := range paths {
		info, err := os.Stat(path)
		must(t, err)
		images = append(images, info)
	}
	slices.SortFunc(images, func(a, b os.FileInfo) int { return int(b.Size() - a.Size()) })
	return images
}

// rewriteLeaf lets the guest have written to the disk since its last snapshot.
func rewriteLeaf(t *testing.T, dir, disk string, content [moments][]byte) {
	t.Helper()
	must(t, os.Remove(filepath.Join(dir, disk+".vhd")))
	base := baseVDI(disk, moments-2)
	srtest.Write(t, dir, srtest.Node{Name: disk, Parent: base, Size: int64(len(content[0])), Own: differing(content[moments-2], content[moments-1]), Created: momentTime(moments)})
	then := time.Now().Add(-time.Minute)
	must(t, os.Chtimes(filepath.Join(dir, disk+".vhd"), then, then))
}
