package vfs

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// slice is a Plain file in memory.
type slice struct{ b []byte }

func (s *slice) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(s.b).ReadAt(p, off) }

func (s *slice) WriteAt(p []byte, off int64) (int, error) {
	if end := off + int64(len(p)); end > int64(len(s.b)) {
		s.b = append(s.b, make([]byte, end-int64(len(s.b)))...)
	}
	return copy(s.b[off:], p), nil
}

func (s *slice) Size() (int64, error) { return int64(len(s.b)), nil }

func (s *slice) Truncate(size int64) error {
	s.b = append(s.b, make([]byte, size)...)[:size]
	return nil
}

func (s *slice) Sync() error { return nil }

// rich is one with all upgrades, each of which notes that it was called.
type rich struct {
	slice
	called []string
}

func (r *rich) note(what string) error { r.called = append(r.called, what); return nil }

func (r *rich) Close() error               { return r.note("close") }
func (r *rich) Punch(off, n int64) error   { return r.note("punch") }
func (r *rich) Reserve(off, n int64) error { return r.note("reserve") }
func (r *rich) Name() string               { return "rich" }

func TestAPlainFileDoesAsAFileDoes(t *testing.T) {
	s := &slice{[]byte("0123456789")}
	f := Full(s)
	if Full(f) != f {
		t.Error("a File is wrapped once more")
	}
	if err := f.Punch(8, 100); err != nil || string(s.b) != "01234567\x00\x00" {
		t.Errorf("punch: %q, %v", s.b, err)
	}
	if start, end, err := f.NextData(3); start != 3 || end != 10 || err != nil {
		t.Errorf("data %d..%d, %v", start, end, err)
	}
	if start, _, err := f.NextData(20); start != 10 || err != nil {
		t.Errorf("beyond the end: data at %d, %v", start, err)
	}
	if shared, err := f.Copy(9, Full(&slice{[]byte("abc")}), 1, 4); shared || err != nil || string(s.b) != "01234567\x00bc\x00\x00" {
		t.Errorf("copy: %q, shared %v, %v", s.b, shared, err)
	}
	if _, err := f.Copy(2, f, 0, 3); err == nil {
		t.Error("a copy onto itself")
	}
	if info, err := f.Stat(); info.Size != 13 || info.IsBlock || err != nil {
		t.Errorf("stat: %+v, %v", info, err)
	}
	wantErr(t, errors.Join(f.Reserve(0, 1<<40), f.Lock(LockWrite), f.Close()), nil)
	for _, err := range []error{f.Punch(-1, 1), f.Reserve(1, -1), second(f.Copy(0, f, 1, 1<<62)), second3(f.NextData(-1))} {
		if err == nil {
			t.Error("a range that no file has is taken")
		}
	}
}

func second3(_, _ int64, err error) error { return err }

func TestWhatAPlainFileHasMoreIsUsed(t *testing.T) {
	r := &rich{}
	f := Full(r)
	wantErr(t, errors.Join(f.Reserve(0, 1), f.Punch(0, 1), f.Close()), nil)
	if got := len(r.called); got != 3 || f.Path() != "rich" {
		t.Errorf("called %v, path %q", r.called, f.Path())
	}
	file := FullReader(r, 0)
	wantErr(t, file.Close(), nil)
	if got := len(r.called); got != 4 || file.Path() != "rich" {
		t.Errorf("a reader: called %v, path %q", r.called, file.Path())
	}
}

func TestAReaderCannotBeWrittenTo(t *testing.T) {
	f := FullReader(bytes.NewReader(make([]byte, 512)), 512)
	for what, err := range map[string]error{
		"write": second(f.WriteAt([]byte{1}, 0)), "truncate": f.Truncate(0), "punch": f.Punch(0, 512),
		"copy": second(f.Copy(0, Full(&slice{}), 0, 1)), "sync": f.Sync(),
	} {
		if !errors.Is(err, errReadOnly) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if !IsReadOnly(f) || IsReadOnly(Full(&slice{})) {
		t.Error("it does not tell that it cannot be written to")
	}
	if _, err := Full(nil).ReadAt(make([]byte, 1), 0); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("no file at all: %v", err)
	}
}

func TestAFileOfTheOperatingSystem(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	o, err := os.Create(path)
	wantErr(t, err, nil)
	f, err := OfOS(o)
	wantErr(t, err, nil)
	_, err = f.WriteAt([]byte("data"), 1<<20)
	wantErr(t, err, nil)
	if size, err := f.Size(); size != 1<<20+4 || f.Path() != path || err != nil {
		t.Errorf("size %d of %s, %v", size, f.Path(), err)
	}
	wantErr(t, errors.Join(f.Punch(0, 4096), f.Sync(), f.Close()), nil)
	dir, err := os.Open(t.TempDir())
	wantErr(t, err, nil)
	defer dir.Close()
	var kind *KindError
	if _, err := OfOS(dir); !errors.As(err, &kind) {
		t.Errorf("a directory: %v", err)
	}
}
