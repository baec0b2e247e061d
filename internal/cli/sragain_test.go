package cli

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge/srtest"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// A xen is a storage repository of a host that guests write to.
type xen struct {
	*testing.T
	size  int64
	clock time.Time
	next  int
	r     *rand.Rand
}

func newXen(t *testing.T, size int64, seed uint64) *xen {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.Mkdir("sr", 0o700); err != nil {
		t.Fatal(err)
	}
	return &xen{t, size, time.Now().Add(-48 * time.Hour), 0, rand.New(rand.NewPCG(seed, 1))}
}

// age makes a file one that was written to later than all others, and not just now.
func (x *xen) age(names ...string) {
	x.Helper()
	for _, name := range names {
		x.clock = x.clock.Add(time.Minute)
		if err := os.Chtimes("sr/"+name+".vhd", x.clock, x.clock); err != nil {
			x.Fatal(err)
		}
	}
}

func (x *xen) name(kind string) string {
	x.next++
	return fmt.Sprintf("%s%d", kind, x.next)
}

// disk makes one.
func (x *xen) disk(own []byte) string {
	name := x.name("disk")
	srtest.Write(x, "sr", srtest.Node{Name: name, Size: x.size, Own: own})
	x.age(name)
	return name
}

// snapshot does what the storage manager does: the disk's node becomes a hidden base copy
// with two new leaves.
func (x *xen) snapshot(disk string) (snap string) {
	x.Helper()
	base, snap := x.name("base"), x.name("snap")
	if err := os.Rename("sr/"+disk+".vhd", "sr/"+base+".vhd"); err != nil {
		x.Fatal(err)
	}
	x.change(base, func(i *vhd.Image) error { return i.SetHidden(true) })
	for _, leaf := range []string{disk, snap} {
		srtest.Write(x, "sr", srtest.Node{Name: leaf, Parent: base, Size: x.size})
	}
	x.age(base, disk, snap)
	return snap
}

func (x *xen) change(name string, do func(i *vhd.Image) error) {
	x.Helper()
	f, err := vfs.OS().Open("sr/"+name+".vhd", true)
	if err != nil {
		x.Fatal(err)
	}
	i, err := vhd.Open(f)
	if err == nil {
		err = do(i.(*vhd.Image))
	}
	if err == nil {
		err = i.Close()
	}
	if err != nil {
		x.Fatal(err)
	}
	x.age(name)
}

// write lets the guest write n bytes, or with zeros clear them.
func (x *xen) write(disk string, off, n int64, zeros bool) {
	x.Helper()
	x.change(disk, func(i *vhd.Image) error {
		if err := i.Prepare(); err != nil {
			return err
		}
		if zeros {
			if err := i.Zero(off, n); err != nil {
				return err
			}
			return i.Flush()
		}
		placed, err := i.Place([]chain.Piece{{Offset: off, Length: n}})
		if err != nil {
			return err
		}
		for _, p := range placed {
			b := make([]byte, p.Length)
			for k := range b {
				b[k] = byte(x.r.Uint32())
			}
			if _, err := i.Host().WriteAt(b, p.Host); err != nil {
				return err
			}
		}
		return i.Flush()
	})
}

// scribble lets the guest write here and there.
func (x *xen) scribble(disk string) {
	for range 1 + x.r.IntN(4) {
		n := int64(1+x.r.IntN(300)) * 512
		x.write(disk, x.r.Int64N((x.size-n)/512)*512, n, x.r.IntN(4) == 0)
	}
}

// asFresh wants all images of out to read as those of a conversion into a new directory.
func (x *xen) asFresh(out string, args ...string) {
	x.Helper()
	fresh := x.name("fresh")
	must(x.T, append([]string{"sr", "convert", "sr", "--to", fresh}, args...)...)
	for _, name := range namesIn(x.T, fresh) {
		format := formatOf(name)
		if code, _, errs := try(x.T, "image", "compare", "-f", format, "-F", format, fresh+"/"+name, out+"/"+name); code != 0 {
			x.Errorf("%s: %d %s", name, code, errs)
		}
		if format == "qcow2" {
			must(x.T, "image", "check", out+"/"+name)
		}
	}
	if err := os.RemoveAll(fresh); err != nil {
		x.Fatal(err)
	}
}

// io counts what the program reads and writes meanwhile, in bytes.
func (x *xen) io(do func()) (read, written int64) {
	x.Helper()
	count := func(key string) int64 {
		b, err := os.ReadFile("/proc/self/io")
		if err != nil {
			x.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(b), key+": ")
		text, _, _ := strings.Cut(rest, "\n")
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			x.Fatal(err)
		}
		return n
	}
	r, w := count("rchar"), count("wchar")
	do()
	return count("rchar") - r, count("wchar") - w
}

// The second run reads and writes what the guest has written since the snapshot, and metadata.
func TestSRConvertAgainCostsWhatHasChanged(t *testing.T) {
	const full, changed = 256 << 20, 4 << 20
	x := newXen(t, full, 1)
	own := make([]byte, full)
	for i := range own {
		own[i] = byte(x.r.Uint32() | 1)
	}
	disk := x.disk(own)
	x.snapshot(disk)
	must(t, "sr", "convert", "sr", "--to", "out")
	x.write(disk, 100<<20, changed, false)
	dry := must(t, "sr", "convert", "sr", "--to", "out", "--again", "--dry-run")
	if strings.Count(dry, "convert ") != 1 || !strings.Contains(dry, "2 images as they were") {
		t.Error(dry)
	}
	read, written := x.io(func() { must(t, "sr", "convert", "sr", "--to", "out", "--again") })
	if read > 3*changed || written > changed+(2<<20) {
		t.Errorf("%d bytes read and %d written for %d that changed", read, written, changed)
	}
	x.asFresh("out")
	read, written = x.io(func() { must(t, "sr", "convert", "sr", "--to", "out", "--again") })
	if read > 2<<20 || written > 1<<20 {
		t.Errorf("%d bytes read and %d written for nothing that changed", read, written)
	}
}

// In a leaf that has changed only the blocks that differ are written.
func TestSRConvertAgainWritesWhatDiffersOfALeaf(t *testing.T) {
	x := newXen(t, 64<<20, 2)
	own := make([]byte, 64<<20)
	for i := range own {
		own[i] = byte(x.r.Uint32() | 1)
	}
	disk := x.disk(own)
	must(t, "sr", "convert", "sr", "--to", "out")
	before := inode(t, "out/"+disk+".qcow2")
	x.write(disk, 20<<20, 1<<20, false)
	if _, written := x.io(func() { must(t, "sr", "convert", "sr", "--to", "out", "--again") }); written > 3<<20 {
		t.Errorf("%d bytes written for one MiB that changed", written)
	}
	if inode(t, "out/"+disk+".qcow2") != before {
		t.Error("the image is another one")
	}
	x.asFresh("out")
}

func inode(t *testing.T, path string) vfs.ID {
	t.Helper()
	info, err := vfs.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.ID
}

// What somebody has written to is not written over, and the remedy helps.
func TestSRConvertAgainRefusesWhatAGuestHasRunOn(t *testing.T) {
	x := newXen(t, 8<<20, 3)
	disk := x.disk([]byte("first"))
	snap := x.snapshot(disk)
	must(t, "sr", "convert", "sr", "--to", "out")
	shell(t, ".", "qemu-io -f qcow2 -c 'write -q -P 9 1M 64k' out/"+disk+".qcow2")
	ran := fileSum(t, "out/"+disk+".qcow2")
	for _, changed := range []bool{false, true} {
		if changed {
			x.scribble(disk)
		}
		code, _, errs := try(t, "sr", "convert", "sr", "--to", "out", "--again")
		if code != term.ExitRefused || !strings.Contains(errs, "it has changed since it was made") || fileSum(t, "out/"+disk+".qcow2") != ran {
			t.Errorf("%d %s", code, errs)
		}
	}
	if err := os.Rename("out/"+disk+".qcow2", "out/ran.qcow2.bak"); err != nil {
		t.Fatal(err)
	}
	must(t, "sr", "convert", "sr", "--to", "out", "--again")
	x.asFresh("out")
	_ = snap
}

// An image that somebody has open is not changed; a dry run tells that, too.
func TestSRConvertAgainRefusesWhatIsInUse(t *testing.T) {
	x := newXen(t, 8<<20, 8)
	disk := x.disk([]byte("first"))
	must(t, "sr", "convert", "sr", "--to", "out")
	f, err := vfs.OS().Open("out/"+disk+".qcow2", true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Lock(vfs.LockWrite); err != nil {
		t.Fatal(err)
	}
	x.scribble(disk)
	before := dirSums(t, "out")
	for _, line := range []string{"--again --dry-run", "--again"} {
		code, _, errs := try(t, append([]string{"sr", "convert", "sr", "--to", "out"}, strings.Fields(line)...)...)
		if code != term.ExitRefused || !slices.Equal(withoutLocks(dirSums(t, "out")), before) {
			t.Errorf("%s: %d %s", line, code, errs)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	must(t, "sr", "convert", "sr", "--to", "out", "--again")
	x.asFresh("out")
}

// A layer that a user has put on an image keeps that from being changed.
func TestSRConvertAgainRefusesWhatOthersBuildOn(t *testing.T) {
	x := newXen(t, 8<<20, 4)
	disk := x.disk([]byte("first"))
	must(t, "sr", "convert", "sr", "--to", "out")
	shell(t, ".", "qemu-img create -q -f qcow2 -F qcow2 -b "+disk+".qcow2 out/mine.qcow2")
	x.scribble(disk)
	if code, _, errs := try(t, "sr", "convert", "sr", "--to", "out", "--again"); code != term.ExitRefused || !strings.Contains(errs, "mine.qcow2") {
		t.Errorf("%d %s", code, errs)
	}
	must(t, "sr", "convert", "sr", "--to", "other", "--again")
	if code, _, errs := try(t, "sr", "convert", "sr", "--to", "out"); code != term.ExitRefused {
		t.Errorf("%d %s", code, errs)
	}
	if err := os.Remove("other/.virt-rotate-convert.json"); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := try(t, "sr", "convert", "sr", "--to", "other", "--again"); code != term.ExitRefused || !strings.Contains(errs, "nothing is on record") {
		t.Errorf("%d %s", code, errs)
	}
}

// Inner nodes go into their parents, as the collector has it: what is converted then reads
// right, whatever layers there were before.
func TestSRConvertAgainAfterNodesWereCoalesced(t *testing.T) {
	x := newXen(t, 16<<20, 5)
	disk := x.disk([]byte("zero"))
	var snaps []string
	for range 3 {
		x.scribble(disk)
		snaps = append(snaps, x.snapshot(disk))
	}
	x.scribble(disk)
	must(t, "sr", "convert", "sr", "--to", "out")
	for _, gone := range []string{snaps[1], snaps[0]} {
		if err := os.Remove("sr/" + gone + ".vhd"); err != nil {
			t.Fatal(err)
		}
		x.coalesce()
		x.scribble(disk)
		x.again()
		x.asFresh("out")
	}
}

// again converts what has changed; of snapshots that are gone the images are deleted as the
// program says.
func (x *xen) again(args ...string) {
	x.Helper()
	for range 10 {
		_, errs, code := call(x.T, append([]string{"sr", "convert", "sr", "--to", "out", "--again"}, args...)...)
		path, rest, _ := strings.Cut(strings.TrimPrefix(errs, "virt-rotate: "), ": ")
		if code == term.ExitRefused && strings.Contains(rest, "is not in the repository any more") && strings.Contains(path, "snap") {
			if err := os.Remove(path); err != nil {
				x.Fatal(err)
			}
			continue
		}
		if code != 0 {
			x.Fatalf("%d %s", code, errs)
		}
		return
	}
	x.Fatal("it is refused again and again")
}

// A guest that has gone back to its snapshot has nothing any more where it had written: the
// image reads as what is below, or as zeros where nothing is.
func TestSRConvertAgainAfterAReturnToASnapshot(t *testing.T) {
	x := newXen(t, 16<<20, 9)
	disk := x.disk([]byte(strings.Repeat("zero", 1<<18)))
	base := "base2"
	x.snapshot(disk)
	x.write(disk, 0, 1<<19, false)
	x.write(disk, 8<<20, 1<<20, false)
	must(t, "sr", "convert", "sr", "--to", "out")
	if err := os.Remove("sr/" + disk + ".vhd"); err != nil {
		t.Fatal(err)
	}
	srtest.Write(t, "sr", srtest.Node{Name: disk, Parent: base, Size: x.size})
	x.age(disk)
	x.write(disk, 12<<20, 512, false)
	must(t, "sr", "convert", "sr", "--to", "out", "--again")
	x.asFresh("out")
}

// While a node is damaged, no layer is removed: one may be the last of it that is sound.
func TestSRConvertAgainKeepsLayersWhileANodeIsDamaged(t *testing.T) {
	x := newXen(t, 16<<20, 7)
	disk, other := x.disk([]byte("zero")), x.disk([]byte("other"))
	var snaps []string
	for range 3 {
		x.scribble(disk)
		snaps = append(snaps, x.snapshot(disk))
	}
	must(t, "sr", "convert", "sr", "--to", "out")
	for _, gone := range snaps[:2] {
		if err := errors.Join(os.Remove("sr/"+gone+".vhd"), os.Remove("out/"+gone+".qcow2")); err != nil {
			t.Fatal(err)
		}
	}
	x.coalesce()
	sound, err := os.ReadFile("sr/" + other + ".vhd")
	if err != nil {
		t.Fatal(err)
	}
	writeTestFile(t, "sr/"+other+".vhd", sound[:1000])
	before := dirSums(t, "out")
	if code, _, errs := try(t, "sr", "convert", "sr", "--to", "out", "--again"); code != term.ExitRefused || !strings.Contains(errs, "put right what of the repository is left out") {
		t.Errorf("%d %s", code, errs)
	}
	if !slices.Equal(withoutLocks(dirSums(t, "out")), withoutLocks(before)) {
		t.Error("something was changed")
	}
	writeTestFile(t, "sr/"+other+".vhd", sound)
	x.age(other)
	x.again()
	x.asFresh("out")
}

// withoutLocks leaves out what runs are locked by.
func withoutLocks(sums []string) []string {
	return slices.DeleteFunc(sums, func(s string) bool { return strings.HasPrefix(s, ".virt-rotate-convert.lock") })
}

// coalesce does what the collector does, sometimes with leaves.
func (x *xen) coalesce() {
	x.Helper()
	old := time.Now().Add(-time.Hour)
	for _, name := range namesIn(x.T, "sr") {
		if err := os.Chtimes("sr/"+name, old, old); err != nil {
			x.Fatal(err)
		}
	}
	args := []string{"sr", "coalesce", "sr"}
	if x.r.IntN(2) == 0 {
		args = append(args, "--leaf")
	}
	must(x.T, args...)
	for _, name := range namesIn(x.T, "sr") {
		if stem, ok := strings.CutSuffix(name, ".vhd"); ok {
			x.age(stem)
		}
	}
}

// Random chains and changes: what a conversion of what has changed leaves reads as a fresh
// one, each time; by names, and without them, in turns, too.
func TestSRConvertAgainIsAsAFreshOne(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			x := newXen(t, 8<<20, 100+seed)
			args := [][]string{nil, {"--keep-all"}, {"--flatten"}, {"--cluster-size", "64k"}, nil, {"--flatten", "-O", "raw"}, nil, {"--keep-all"}}[seed]
			of := map[string]string{}
			disks := []string{x.disk([]byte("a")), x.disk([]byte("b"))}
			var snaps []string
			for round := range 5 {
				for range 1 + x.r.IntN(4) {
					disk := disks[x.r.IntN(len(disks))]
					switch x.r.IntN(4) {
					case 0:
						snaps = append(snaps, x.snapshot(disk))
						of[snaps[len(snaps)-1]] = disk
					case 1:
						if len(snaps) > 0 {
							i := x.r.IntN(len(snaps))
							if err := os.Remove("sr/" + snaps[i] + ".vhd"); err != nil {
								t.Fatal(err)
							}
							snaps = slices.Delete(snaps, i, i+1)
						}
					case 2:
						x.coalesce()
					default:
						x.scribble(disk)
					}
				}
				x.names(of)
				args := slices.Clone(args)
				if seed >= 6 && round%2 == 1 {
					args = append(args, "--names", "pool.xml")
				}
				x.again(args...)
				x.asFresh("out", args...)
				if left, err := filepath.Glob("out/*.unfinished"); err != nil || len(left) > 0 || t.Failed() {
					t.Fatalf("round %d: %q", round, left)
				}
			}
		})
	}
}

// What was written to within the last moment is not told from what it becomes.
func TestSRConvertAgainDoesNotTrustWhatIsJustWritten(t *testing.T) {
	x := newXen(t, 8<<20, 6)
	disk := x.disk([]byte("first"))
	must(t, "sr", "convert", "sr", "--to", "out") // its time lies back
	for _, text := range []string{"now", "at once"} {
		x.scribble(disk)
		at := time.Now()
		if err := os.Chtimes("sr/"+disk+".vhd", at, at); err != nil {
			t.Fatal(err)
		}
		must(t, "sr", "convert", "sr", "--to", "out", "--again")
		x.write(disk, 1<<20, 512, false)
		if err := os.Chtimes("sr/"+disk+".vhd", at, at); err != nil { // within one tick of the clock
			t.Fatal(err)
		}
		must(t, "sr", "convert", "sr", "--to", "out", "--again")
		x.asFresh("out")
		_ = text
	}
}
