package qcow2

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// zerosBefore and zerosAfter are written around what a species goes through: data of
// zeros, shared by snapshots and not, and holes.
var (
	zerosBefore = []string{"write -P 0 @22 @2", "write -P 7 @26 @2", "write -P 0 @28 @2", "write -P 0 @33 @2"}
	zerosAfter  = []string{"write -P 0 @5 @3", "write -P 0 @26 @1", "write -P 9 @22 @1", "discard @23 @1", "write -P 0 @34 512",
		"write -P 8 @38 @1", "write -z @38 @1", "write -z @27 @1"}
)

// withZeros is a species with data that is worth nothing.
func withZeros(s species) species {
	s.steps = slices.Concat(zerosBefore, s.steps)
	if !strings.Contains(s.options, "refcount_bits=1") && slices.Contains(s.steps, "write -c -P 1 @14 @1") {
		s.steps = append(s.steps, "write -c -P 0 @36 @1", "write -c -P 0 @37 @1")
	}
	s.steps = append(s.steps, zerosAfter...)
	return s
}

// states are checksums of what QEMU reads, the active state as "" and the internal
// snapshots by their IDs.
func (s specimen) states(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{"": s.guest(t)}
	image := s.load(t)
	list, err := ReadSnapshots(bytes.NewReader(image), mustRead(t, image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	for _, snap := range list {
		all[snap.ID] = s.state(t, snap.ID)
	}
	return all
}

// state is what QEMU reads in an internal snapshot.
func (s specimen) state(t *testing.T, id string) string {
	t.Helper()
	out := filepath.Join(s.dir, s.file+".state")
	args := append([]string{"convert", "-l", "snapshot.id=" + id, "-O", "raw"}, s.args()...)
	cmd := exec.Command("qemu-img", append(args, out)...)
	cmd.Dir = s.dir
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", cmd.Args, err, msg)
	}
	b := load(t, out)
	if err := os.Remove(out); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

func (s specimen) compact(t *testing.T, o CompactOptions) CompactResult {
	t.Helper()
	f, err := vfs.OS().Open(filepath.Join(s.dir, s.file), !o.DryRun)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	res, err := Compact(t.Context(), f, o)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// settled repairs what a species is meant to have wrong.
func (s specimen) settled(t *testing.T) {
	t.Helper()
	if _, err := s.check(t, RepairAll); err != nil {
		t.Fatal(err)
	}
}

// described is what the image says of itself, but for where it is.
func (s specimen) described(t *testing.T) string {
	t.Helper()
	image := s.load(t)
	h := mustRead(t, image)
	snaps, err := ReadSnapshots(bytes.NewReader(image), h, int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	maps, err := ReadBitmaps(bytes.NewReader(image), h)
	if err != nil {
		t.Fatal(err)
	}
	for i := range snaps {
		snaps[i].l1 = table{count: snaps[i].l1.count}
	}
	return fmt.Sprint(h.Version, h.Size, h.ClusterBits, h.RefcountOrder, h.BackingFile, h.BackingFormat, h.DataFile,
		h.Incompatible, h.Compatible, h.Autoclear, h.CryptMethod, snaps, maps)
}

// Of every kind of image: QEMU reads the same in every state, finds nothing wrong and
// nothing lost, and what was free is free.
func TestACompactImageReadsAsBefore(t *testing.T) {
	for _, s := range allSpecies() {
		s := withZeros(s)
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			m := raise(t, t.TempDir(), s)
			m.settled(t)
			before, was := m.states(t), m.described(t)
			plan := m.compact(t, CompactOptions{Zeros: true, DryRun: true})
			res := m.compact(t, CompactOptions{Zeros: true})
			wantAsPlanned(t, plan, res)
			wantSound(t, m)
			if after := m.states(t); !maps.Equal(after, before) {
				t.Errorf("QEMU reads something else: %v, before %v", after, before)
			}
			if now := m.described(t); now != was {
				t.Errorf("it says %s\nbefore  %s", now, was)
			}
			again := m.compact(t, CompactOptions{Zeros: true, DryRun: true})
			if again.Zeros+again.Room+again.Leaked+again.Tail+again.Back != 0 {
				t.Errorf("there is more: %+v", again)
			}
			if s.options == "" && res.Zeros == 0 {
				t.Errorf("no zeros found: %+v", res)
			}
			revertAll(t, m, before)
		})
	}
}

func wantAsPlanned(t *testing.T, plan, res CompactResult) {
	t.Helper()
	for _, r := range []*CompactResult{&plan, &res} {
		r.SizeAfter, r.AllocatedAfter, r.AllocatedBefore = 0, 0, 0
	}
	if plan != res {
		t.Errorf("planned %+v\ndone    %+v", plan, res)
	}
}

func wantSound(t *testing.T, m specimen) {
	t.Helper()
	res, ok := m.qemuCheck(t)
	if !ok || res.Corruptions+res.Leaks+res.CheckErrors != 0 {
		t.Errorf("qemu-img check: %+v, %v", res, ok)
	}
	ours, err := m.check(t, RepairNone)
	if err != nil || ours.Corruptions+ours.Leaks+ours.CheckErrors != 0 {
		t.Errorf("check: %s%v", ours.describe(), err)
	}
}

// revertAll goes back to every snapshot by qemu-img, and writes there.
func revertAll(t *testing.T, m specimen, want map[string]string) {
	t.Helper()
	if m.luks || len(want) < 2 {
		return
	}
	for id, sum := range want {
		if id == "" {
			continue
		}
		m.img(t, "snapshot -a "+id)
		if got := m.guest(t); got != sum {
			t.Errorf("snapshot -a %s: QEMU reads something else", id)
		}
		m.io(t, "write -P 77 0 20k")
	}
	for id, sum := range want {
		if id != "" && m.state(t, id) != sum {
			t.Errorf("after a revert and writing, snapshot %s reads as something else", id)
		}
	}
	wantSound(t, m)
}

// The same of an image that is written anew, which is as small as it can be.
func TestACompactCopyReadsAsTheImage(t *testing.T) {
	all := append(allSpecies(), species{name: "nothing", cluster: 64 << 10, size: 1})
	for _, s := range all {
		s := withZeros(s)
		if s.size == 1 {
			s.steps = nil
		}
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			m := raise(t, t.TempDir(), s)
			m.settled(t)
			before, was, image := m.states(t), m.described(t), m.load(t)
			copied, res, err := m.compactTo(t, "copy")
			if !bytes.Equal(m.load(t), image) {
				t.Error("the image itself was changed")
			}
			var refused *RefusedError
			if s.luks() || strings.Contains(s.options, "data_file") {
				if !errors.As(err, &refused) || len(copied.load(t)) > 0 {
					t.Errorf("%v, %d bytes", err, len(copied.load(t)))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			wantSound(t, copied)
			if after := copied.states(t); !maps.Equal(after, before) {
				t.Errorf("QEMU reads something else: %v, before %v", after, before)
			}
			if now := copied.described(t); now != was {
				t.Errorf("it says %s\nbefore  %s", now, was)
			}
			if again := copied.compact(t, CompactOptions{Zeros: true, DryRun: true}); again.Free+again.Zeros+again.Room+again.Tail != 0 {
				t.Errorf("it is not compact: %+v, from %+v", again, res)
			}
			if s.bitmaps() {
				wantSameBitmaps(t, m, copied)
			}
			revertAll(t, copied, before)
		})
	}
}

func (s species) bitmaps() bool { return strings.HasPrefix(s.name, "bitmaps") }

func (s specimen) compactTo(t *testing.T, name string) (to specimen, res CompactResult, err error) {
	t.Helper()
	to = s.copyTo(t, name, nil)
	f, err := vfs.OS().Open(filepath.Join(s.dir, s.file), false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	g, err := vfs.OS().Open(filepath.Join(s.dir, name), true)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	res, err = CompactTo(t.Context(), g, f, CompactOptions{Zeros: true})
	return to, res, err
}

// wantSameBitmaps asks QEMU which parts of the disk each bitmap has.
func wantSameBitmaps(t *testing.T, a, b specimen) {
	t.Helper()
	for _, name := range []string{"first", "second"} {
		if x, y := a.bitmap(t, name), b.bitmap(t, name); x != y || x == "" {
			t.Errorf("bitmap %s: %s\nin the image: %s", name, y, x)
		}
	}
}

// bitmap is what QEMU exports of it, as a backup would read it.
func (s specimen) bitmap(t *testing.T, name string) string {
	t.Helper()
	sock := filepath.Join(t.TempDir(), "nbd")
	server := exec.Command("qemu-nbd", "-r", "-t", "-f", "qcow2", "-k", sock, "-B", name, s.file)
	server.Dir = s.dir
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		server.Process.Kill()
		server.Wait()
	}()
	for range 500 {
		if conn, err := net.Dial("unix", sock); err == nil {
			conn.Close()
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return string(qemuImg(t, s.dir, "map", "--output=json", "--image-opts",
		"driver=nbd,server.type=unix,server.path="+sock+",x-dirty-bitmap=qemu:dirty-bitmap:"+name))
}

// Zeros of an overlay hide what is below.
func TestZerosOfAnOverlayStayZeros(t *testing.T) {
	for _, options := range []string{"compat=0.10", "compat=1.1", "extended_l2=on"} {
		t.Run(options, func(t *testing.T) {
			dir := t.TempDir()
			create(t, dir, "base", "", "1M")
			qemuIO(t, dir, "base", "write -P 5 0 1M")
			create(t, dir, "over", options, "-b", "base", "-F", "qcow2")
			m := specimen{dir: dir, file: "over"}
			m.io(t, "write -P 0 0 256k", "write -P 1 512k 64k")
			m.img(t, "snapshot -c s")
			m.io(t, "write -P 0 512k 64k", "write -z 768k 64k")
			before := m.states(t)
			res := m.compact(t, CompactOptions{Zeros: true})
			wantSound(t, m)
			if after := m.states(t); !maps.Equal(after, before) {
				t.Errorf("QEMU reads something else")
			}
			if wanted := options != "compat=0.10"; (res.Zeros > 0) != wanted {
				t.Errorf("%+v", res)
			}
		})
	}
}

// Without Zeros, or where the data says nothing, only what is free goes.
func TestOnlyWhatIsFreeGoesWithoutLookingAtData(t *testing.T) {
	m := raise(t, t.TempDir(), withZeros(species{name: "disk", cluster: 64 << 10, size: 60, steps: withSnapshots}))
	m.img(t, "snapshot -d one")
	m.img(t, "snapshot -d three")
	m = m.copyTo(t, "without-holes", m.load(t)) // as of a program that does not discard
	before, sum := m.states(t), sha256.Sum256(m.load(t))
	if res := m.compact(t, CompactOptions{DryRun: true}); res.Zeros != 0 || res.Free == 0 {
		t.Errorf("%+v", res)
	}
	if sha256.Sum256(m.load(t)) != sum {
		t.Error("a dry run has changed the image")
	}
	res := m.compact(t, CompactOptions{})
	if res.Zeros != 0 || res.Back == 0 || res.AllocatedAfter > res.AllocatedBefore-res.Back/2 {
		t.Errorf("%+v", res)
	}
	if !maps.Equal(m.states(t), before) {
		t.Error("QEMU reads something else")
	}
	wantSound(t, m)
}

// What a check would have to repair is refused, and left as it is.
func TestAnImageThatIsNotSoundIsNotMadeCompact(t *testing.T) {
	sound := raise(t, t.TempDir(), species{name: "disk", cluster: 512, size: 300, steps: slices.Concat(everyday, withSnapshots)}).load(t)
	p := explore(t, sound)
	for name, damage := range map[string]func(b []byte){
		"dirty":    func(b []byte) { b[offIncompatible+7] |= incompatDirty },
		"corrupt":  func(b []byte) { b[offIncompatible+7] |= incompatCorrupt },
		"refcount": func(b []byte) { putRef(b[p.blocks[0]:], 4, 1, 0) },
		"outside":  func(b []byte) { put64(b, int(p.h.L1TableOffset), 1<<40|entryCopied) },
	} {
		b := bytes.Clone(sound)
		damage(b)
		mem := onCrashDisk(t, b)
		f, err := mem.Open(crashDisk, true)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Compact(context.Background(), f, CompactOptions{Zeros: true})
		var refused *RefusedError
		if !errors.As(err, &refused) {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.Equal(contentOf(t, mem), b) {
			t.Errorf("%s: the image was changed", name)
		}
	}
}
