package chaintest

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
)

// cutOff is a chain a moment before the last change of a commit into its base, with space lost in that. The
// store has noted what it fills if noted is set.
func cutOff(t *testing.T, noted bool) (*forest, Operation) {
	t.Helper()
	k := kits()[0]
	op := Operations(k.Format.Name)[0]
	op.Noted = noted
	for seed := uint64(1); seed < 50; seed++ {
		origin := newForest(t, k, k, op, seed)
		for n, over := 1, false; !over; n++ {
			f := origin.on(origin.mem.Crash(1))
			var then *vfstest.Mem
			f.mem.Before(f.mem.Changes()+n, func() { then = f.mem.Crash(1) })
			f.must(op.Do(t.Context(), f.store()))
			if over = then == nil; over {
				continue
			}
			at := f.on(then)
			if at.lostIn("base") > 0 && !at.there(".virt-rotate-commit-b.json") {
				return at, op
			}
		}
	}
	t.Fatal("there is no such moment")
	return nil, op
}

// lostIn is how many clusters are lost in an image.
func (f *forest) lostIn(name string) int64 {
	f.t.Helper()
	file, err := f.fs.Open(path(name), false)
	f.must(err)
	n, err := f.kit[path(name)].Lost(file)
	f.must(err)
	f.must(file.Close())
	return n
}

// Space that was lost before may hold what somebody is looking for.
func TestWhatWasLostBeforeAMergeStays(t *testing.T) {
	f, op := cutOff(t, false)
	f.lost[path("base")] = f.lostIn("base")
	f.fills = notes
	f.must(op.Do(t.Context(), f.store()))
	f.must(f.after(op))
}

// A note on another image of that name says nothing about this one.
func TestANoteOnAnotherImageIsNotBelieved(t *testing.T) {
	for _, another := range []string{`{"version": 1, "path": "/images/base", "id": {"Dev": 1, "Ino": 99}}`, "{", ""} {
		f, op := cutOff(t, true)
		names, err := f.fs.ReadDir(notes)
		f.must(err)
		if len(names) != 1 {
			t.Fatalf("notes: %q", names)
		}
		note := filepath.Join(notes, names[0])
		text, err := f.fs.ReadFile(note)
		f.must(err)
		if !json.Valid(text) {
			t.Errorf("%s", text)
		}
		lost := f.lostIn("base")
		f.must(f.fs.WriteFile(note, []byte(another), 0o600))
		f.must(op.Do(t.Context(), f.store()))
		if now := f.lostIn("base"); now != lost {
			t.Errorf("note %q: %d clusters were lost, %d are", another, lost, now)
		}
	}
}
