package qcow2

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
)

// TestRulesAsQEMU has the rules that random damage seldom meets.
func TestRulesAsQEMU(t *testing.T) {
	byName := map[string]species{}
	for _, s := range allSpecies() {
		byName[s.name] = s
	}
	or := func(at int64, bits uint64) func([]byte) {
		return func(b []byte) { put64(b, int(at), binary.BigEndian.Uint64(b[at:])|bits) }
	}
	dir := t.TempDir()
	for _, c := range []struct {
		name, species string
		damage        func(p places) func(b []byte)
	}{
		{"leak far from everything else", "preallocated", func(p places) func([]byte) {
			return func(b []byte) { clear(b[p.h.L1TableOffset : p.h.L1TableOffset+16]) } // all data
		}},
		{"compressed in a data file", "data-file", func(p places) func([]byte) {
			return or(p.h.L1TableOffset+4096, entryCompressed)
		}},
		{"compressed with subclusters", "extended", func(p places) func([]byte) {
			return or(p.words[refCompressed][0]+8, 1)
		}},
		{"compressed with zero subclusters", "extended", func(p places) func([]byte) {
			return or(p.words[refCompressed][0]+8, 1<<40)
		}},
		{"subcluster of both kinds", "extended", func(p places) func([]byte) {
			return or(p.words[refData][0]+8, 1<<32|1)
		}},
		{"data file without copied flag", "data-file", func(p places) func([]byte) {
			return func(b []byte) { b[p.h.L1TableOffset+4096+8*30] = 0 }
		}},
		{"snapshots with a data file", "v3-4096", func(p places) func([]byte) {
			return or(offIncompatible, incompatDataFile)
		}},
		{"L2 table unaligned", "plain", func(p places) func([]byte) { return or(p.words[refL2][0], 512) }},
		{"L2 table of a snapshot outside", "v3-512", func(p places) func([]byte) {
			return or(p.words[refL2][0], 1<<50) // of a snapshot, they come first
		}},
		{"refcount block listed twice", "plain", func(p places) func([]byte) {
			return func(b []byte) { put64(b, int(p.h.RefcountTableOffset+16), uint64(p.blocks[0])) }
		}},
		{"refcount block twice, one bit wide", "bits-1", func(p places) func([]byte) {
			return func(b []byte) { put64(b, int(p.h.RefcountTableOffset+16), uint64(p.blocks[0])) }
		}},
		{"snapshot without extra data", "v3-512", func(p places) func([]byte) {
			return func(b []byte) {
				at := p.h.SnapshotsOffset
				b[at+offSnapshotName+1] += b[at+offSnapshotExtra+3] // the name grows
				b[at+offSnapshotExtra+3] = 0
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := raise(t, dir, byName[c.species])
			image := m.load(t)
			p := explore(t, image)
			b := slices.Clone(image)
			c.damage(p)(b)
			if c.species == "v3-4096" {
				m.dataFile = "data-file.raw"
			}
			d := m.copyTo(t, "damaged", b)
			got, err := d.check(t, RepairNone)
			if err != nil {
				t.Fatal(err)
			}
			want, ok := d.qemuCheck(t)
			if same, _ := got.asQEMU(); !ok || fmt.Sprint(same) != fmt.Sprint(want) || got.Corruptions+got.Leaks == 0 {
				t.Errorf("got %s\nqemu %+v, %v", got.describe(), want, ok)
			}
		})
	}
}
