package qcow2

import (
	"bytes"
	"context"
	"maps"
	"testing"
)

// compactMem is an image in memory that can be made shorter.
type compactMem struct{ *checkMem }

func (m compactMem) Truncate(size int64) error {
	if size > int64(len(m.b)) {
		m.b = append(m.b, make([]byte, size-int64(len(m.b)))...)
	}
	m.b = m.b[:size]
	return nil
}

func (m compactMem) Punch(off, n int64) error {
	clear(m.b[off:min(off+n, int64(len(m.b)))])
	return nil
}

func (m compactMem) Size() (int64, error) { return int64(len(m.b)), nil }

func (compactMem) Path() string { return "image" }

// tryStates are what can be read of all states; ok is false if not all can be.
func tryStates(b []byte) (all map[string]string, ok bool) {
	m, err := open(newCheckMem(b), nil)
	if err != nil || m.h.Size > 1<<20 || m.h.Snapshots > 100 {
		return nil, false
	}
	list, err := m.Snapshots()
	if err != nil {
		return nil, false
	}
	all = map[string]string{}
	read := func(key string, m *Image) {
		b := make([]byte, m.h.Size)
		if _, err := m.ReadAt(b, 0); err != nil {
			ok = false
		}
		all[key] = string(b)
	}
	ok = true
	read("", m)
	for i, s := range list {
		state, err := m.At(s)
		if err != nil || state.h.Size > 1<<20 {
			return nil, false
		}
		read(s.ID+string(rune(i)), state)
	}
	return all, ok
}

// FuzzCompact: whatever an image claims, every state that could be read reads the same
// afterwards, and the image is sound; an image that cannot be made compact is left as it was.
func FuzzCompact(f *testing.F) {
	for _, image := range samples(f) {
		f.Add(image)
	}
	f.Fuzz(func(t *testing.T, image []byte) {
		if len(image) > 1<<20 {
			return
		}
		before, readable := tryStates(image)
		m := compactMem{newCheckMem(bytes.Clone(image))}
		_, err := Compact(context.Background(), fullMem{m}, CompactOptions{Zeros: true})
		wantCompacted(t, image, m.b, before, readable, err)
		to := compactMem{newCheckMem(nil)}
		_, err = CompactTo(context.Background(), fullMem{to}, fullMem{compactMem{newCheckMem(image)}}, CompactOptions{Zeros: true})
		if err == nil {
			wantCompacted(t, image, to.b, before, readable, nil)
		}
	})
}

func wantCompacted(t *testing.T, image, b []byte, before map[string]string, readable bool, err error) {
	t.Helper()
	if err != nil {
		if !bytes.Equal(b, image) {
			t.Fatalf("it was changed, and then: %v", err)
		}
		return
	}
	c, err := examine(newCheckMem(b))
	if err != nil || !c.sound() {
		t.Fatalf("not sound: %s%v", c.res.describe(), err)
	}
	if after, ok := tryStates(b); readable && (!ok || !maps.Equal(after, before)) {
		t.Fatal("a state reads as something else")
	}
}

// fullMem is a compactMem as a File that knows no more than that.
type fullMem struct{ m compactMem }

func (f fullMem) ReadAt(p []byte, off int64) (int, error)  { return f.m.ReadAt(p, off) }
func (f fullMem) WriteAt(p []byte, off int64) (int, error) { return f.m.WriteAt(p, off) }
func (f fullMem) Size() (int64, error)                     { return f.m.Size() }
func (f fullMem) Truncate(size int64) error                { return f.m.Truncate(size) }
func (f fullMem) Sync() error                              { return nil }
func (f fullMem) Punch(off, n int64) error                 { return f.m.Punch(off, n) }
