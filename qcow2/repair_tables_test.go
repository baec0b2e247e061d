package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// lostTablesCases are ways to lose the refcount table, or the snapshot table, that leave all that is
// needed to find it again.
func lostTablesCases(h Header, size int64) map[string]func(b []byte) {
	table, snapshots := int(h.RefcountTableOffset), int(h.SnapshotsOffset)
	beyond, cluster := uint64(size+10*h.ClusterSize())&^uint64(h.ClusterSize()-1), uint64(h.ClusterSize())
	cases := map[string]func(b []byte){
		"refcount table beyond the end":  func(b []byte) { put64(b, offRefcountTable, beyond) },
		"refcount table unaligned":       func(b []byte) { put64(b, offRefcountTable, uint64(table)+8) },
		"refcount table at 0":            func(b []byte) { put64(b, offRefcountTable, 0) },
		"refcount table beyond all":      func(b []byte) { put64(b, offRefcountTable, 1<<63) },
		"refcount table without length":  func(b []byte) { put32(b, offRefcountClusters, 0) },
		"refcount table much too long":   func(b []byte) { put32(b, offRefcountClusters, 1<<30) },
		"refcount table in the L1 table": func(b []byte) { put64(b, offRefcountTable, uint64(h.L1TableOffset)) },
		"refcount table of junk":         func(b []byte) { copy(b[table:table+64], strings.Repeat("junk", 16)) },
	}
	if h.Snapshots > 0 {
		maps.Copy(cases, map[string]func(b []byte){
			"snapshot table beyond the end": func(b []byte) { put64(b, offSnapshotsTable, beyond) },
			"snapshot table unaligned":      func(b []byte) { put64(b, offSnapshotsTable, uint64(snapshots)+8) },
			"snapshot table somewhere else": func(b []byte) { put64(b, offSnapshotsTable, cluster) },
			"one snapshot more":             func(b []byte) { put32(b, offSnapshots, h.Snapshots+1) },
			"far too many snapshots":        func(b []byte) { put32(b, offSnapshots, 1<<20) },
			"extra data too long":           func(b []byte) { put32(b, snapshots+offSnapshotExtra, 5000) },
			"extra data longer than it is":  func(b []byte) { b[snapshots+offSnapshotExtra+3] += 8; b[snapshots+offSnapshotExtra+2] = 4 },
			"both tables beyond the end":    func(b []byte) { put64(b, offSnapshotsTable, beyond); put64(b, offRefcountTable, beyond) },
		})
	}
	return cases
}

// An image that has lost a table has it again after a repair, with all snapshots, and reads
// as before, for QEMU as well.
func TestLostTablesComeBack(t *testing.T) {
	for _, s := range allSpecies() {
		if !slices.Contains([]string{"v2-512", "v3-512", "v3-65536", "bits-1-4k", "bitmaps", "extended"}, s.name) {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			m := raise(t, t.TempDir(), s)
			sound := m.load(t)
			states, list := m.states(t), m.described(t)
			for name, lose := range lostTablesCases(mustRead(t, sound), int64(len(sound))) {
				t.Run(name, func(t *testing.T) {
					b := slices.Clone(sound)
					lose(b)
					d := m.copyTo(t, "lost", b)
					got, err := d.check(t, RepairAll)
					if err != nil || got.Corruptions+got.CheckErrors > 0 {
						t.Fatalf("%v\n%s", err, got.describe())
					}
					if now := d.states(t); !maps.Equal(now, states) {
						t.Errorf("states: %v, not %v", now, states)
					}
					if now := d.described(t); now != list {
						t.Errorf("snapshots: %s, not %s", now, list)
					}
					if again, err := d.check(t, RepairAll); err != nil || again.Corruptions+again.Leaks+again.CheckErrors > 0 {
						t.Errorf("once more: %v, %s", err, again.describe())
					}
					if res, ok := d.qemuCheck(t); !ok || res.Corruptions+res.Leaks+res.CheckErrors > 0 {
						t.Errorf("qemu: %v %+v", ok, res)
					}
					if mustRead(t, d.load(t)).Corrupt() {
						t.Error("still marked as corrupt")
					}
				})
			}
		})
	}
}

// What belonged to snapshots that cannot be found stays, until somebody asks for its space.
func TestSnapshotsThatAreNotFoundKeepTheirClusters(t *testing.T) {
	m := raise(t, t.TempDir(), species{name: "disk", cluster: 512, size: 300, steps: slices.Concat(everyday, withSnapshots)})
	b := m.load(t)
	h := mustRead(t, b)
	states := m.states(t)
	at := h.SnapshotsOffset
	second := at + roundUp(minSnapshotLen+int64(binary.BigEndian.Uint32(b[at+offSnapshotExtra:]))+
		int64(binary.BigEndian.Uint16(b[at+offSnapshotID:]))+int64(binary.BigEndian.Uint16(b[at+offSnapshotName:])), 8)
	for _, c := range []struct {
		name  string
		lost  int64
		found int
	}{{"one of two", second, 1}, {"all", at, 0}} {
		t.Run(c.name, func(t *testing.T) {
			damaged := slices.Clone(b)
			for i := c.lost; i < min(at+200, int64(len(b))); i++ {
				damaged[i] = 0xff
			}
			d := m.copyTo(t, "lost", damaged)
			got, err := d.check(t, RepairAll)
			if err != nil || got.Corruptions+got.CheckErrors > 0 || got.Leaks == 0 {
				t.Fatalf("%v\n%s", err, got.describe())
			}
			if want := fmt.Sprintf("with %d of 2 snapshots", c.found); len(got.Restored) != 1 || !strings.Contains(got.Restored[0], want) {
				t.Errorf("%q", got.Restored)
			}
			for id, sum := range d.states(t) {
				if states[id] != sum {
					t.Errorf("%s reads otherwise", id)
				}
			}
			if n := len(d.states(t)); n != c.found+1 {
				t.Errorf("%d states", n)
			}
			if after, err := d.check(t, RepairLeaks); err != nil || after.Leaks > 0 {
				t.Errorf("%v %s", err, after.describe())
			}
		})
	}
}

// A flipped bit that moves all data into another file, or out of it, does not make
// leaks of the data.
func TestAFlippedDataFileBitFreesNothing(t *testing.T) {
	dir := t.TempDir()
	plain := raise(t, dir, species{name: "plain", cluster: 4096, size: 300, steps: everyday})
	named := raise(t, dir, species{name: "named", cluster: 4096, size: 600, options: "data_file=named.raw", steps: everyday})
	for _, m := range []specimen{plain, named} {
		b := m.load(t)
		b[offIncompatible+7] ^= incompatDataFile
		d := m.copyTo(t, m.file+"-flipped", b)
		for _, repair := range []Repair{RepairLeaks, RepairAll} {
			_, err := d.check(t, repair)
			var refused *UnsupportedError
			if !errors.As(err, &refused) {
				t.Errorf("%s: %v", m.file, err)
			}
		}
		if _, err := Compact(t.Context(), openFile(t, d), CompactOptions{Zeros: true}); err == nil {
			t.Errorf("%s: was made compact", m.file)
		}
		if !slices.Equal(d.load(t), b) {
			t.Errorf("%s was changed", m.file)
		}
	}
}

func openFile(t *testing.T, m specimen) vfs.File {
	t.Helper()
	f, err := vfs.OS().Open(filepath.Join(m.dir, m.file), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// At each crash point in the repair of a lost table the image is as lost as before, or
// QEMU refuses to write to it, or it is sound; another repair brings all states back.
func TestCrashWithinTheRepairOfALostTable(t *testing.T) {
	m := raise(t, t.TempDir(), species{name: "disk", cluster: 512, size: 300, steps: slices.Concat(everyday, withSnapshots)})
	sound := m.load(t)
	want := allStates(t, sound)
	for name, lose := range lostTablesCases(mustRead(t, sound), int64(len(sound))) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lost := slices.Clone(sound)
			lose(lost)
			for n := 1; ; n++ {
				mem := onCrashDisk(t, lost)
				var after [][]byte
				mem.Before(n, func() {
					for seed := range uint64(8) {
						after = append(after, contentOf(t, mem.Crash(seed)))
					}
				})
				repairOn(t, mem)
				if after == nil {
					if n < 3 {
						t.Fatalf("%d crash points: hook broken?", n-1)
					}
					return
				}
				for seed, b := range after {
					wantLostOrSafe(t, fmt.Sprintf("change %d, seed %d", n, seed), lost, b)
					again := onCrashDisk(t, b)
					repairOn(t, again)
					if got := allStates(t, contentOf(t, again)); got != want {
						t.Errorf("change %d, seed %d: after another repair:\n%s\nnot\n%s", n, seed, got, want)
					}
				}
			}
		})
	}
}

// wantLostOrSafe wants an image to which QEMU writes only if that endangers nothing.
func wantLostOrSafe(t *testing.T, where string, lost, b []byte) {
	t.Helper()
	h, err := read(b)
	if err != nil || h.Corrupt() || h.SnapshotsOffset == mustPoint(lost) && h.Snapshots == binary.BigEndian.Uint32(lost[offSnapshots:]) {
		return
	}
	for cluster, bad := range hazards(t, b) {
		if bad {
			t.Errorf("%s: %s is in danger, and QEMU would write to the image", where, cluster)
		}
	}
}

// mustPoint is where the header says the snapshot table to be.
func mustPoint(b []byte) int64 { return int64(binary.BigEndian.Uint64(b[offSnapshotsTable:])) }

// allStates is what the guest sees, and what each snapshot maps.
func allStates(t *testing.T, image []byte) string {
	t.Helper()
	h := mustRead(t, image)
	list, err := ReadSnapshots(bytes.NewReader(image), h, int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintln(mapping(t, withoutSnapshots(image)))
	for _, s := range list {
		state := withoutSnapshots(image)
		put64(state, offL1Table, uint64(s.l1.offset))
		put32(state, offL1Size, uint32(s.l1.count))
		text += fmt.Sprintln(s.ID, s.Name, s.Seconds, s.Size, mapping(t, state))
	}
	return text
}

func withoutSnapshots(image []byte) []byte {
	b := slices.Clone(image)
	put32(b, offSnapshots, 0)
	return b
}
