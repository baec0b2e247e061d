package qcow2_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/virt-rotate/virt-rotate/qcow2"
)

// The guest data of this image is in a file that only the caller can open.
func TestTheDataFileIsTheOneThatTheCallerGives(t *testing.T) {
	b, err := os.ReadFile("testdata/data.qcow2")
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("data"), 1024)
	closed := false
	m, err := qcow2.NewReader(bytes.NewReader(b), int64(len(b)), func(name string) (io.ReaderAt, int64, error) {
		if name != "data.raw" {
			t.Errorf("data file %q", name)
		}
		return closing{bytes.NewReader(want), &closed}, int64(len(want)), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, m.Image().VirtualSize)
	if _, err := m.ReadAt(got, 0); err != nil || !m.Image().DataFile || len(got) != len(want) {
		t.Errorf("%d bytes, %+v, %v", len(got), m.Image(), err)
	}
	for x, err := range qcow2.Extents(m) {
		if err != nil || x.Kind == qcow2.Data && !bytes.Equal(got[x.Offset:x.End()], want[x.Host:][:x.Length]) {
			t.Errorf("extent %+v: %v", x, err)
		}
	}
	if err := m.Close(); err != nil || !closed {
		t.Errorf("closed %v, %v", closed, err)
	}

	var unsupported *qcow2.UnsupportedError
	if _, err := qcow2.NewReader(bytes.NewReader(b), int64(len(b)), nil); !errors.As(err, &unsupported) {
		t.Errorf("nobody opens it: %v", err)
	}
	missing := errors.New("it is not there")
	if m, err := qcow2.NewReader(bytes.NewReader(b), int64(len(b)), func(string) (io.ReaderAt, int64, error) { return nil, 0, missing }); !errors.Is(err, missing) || m != nil {
		t.Errorf("it cannot be opened: %v, %v", m, err)
	}
}

type closing struct {
	io.ReaderAt
	closed *bool
}

func (c closing) Close() error { *c.closed = true; return nil }

// What was opened to be read is not written to, and says so.
func TestAReaderIsNotWrittenTo(t *testing.T) {
	b, err := os.ReadFile("testdata/v3.qcow2")
	if err != nil {
		t.Fatal(err)
	}
	m, err := qcow2.NewReader(bytes.NewReader(b), int64(len(b)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.SetBacking("other.raw", "raw"); err == nil {
		t.Error("it got a backing file")
	}
	w, err := qcow2.NewWriter(m)
	if err == nil {
		_, err = w.WriteAt([]byte("x"), 0)
		err = errors.Join(err, w.Flush())
	}
	if err == nil {
		t.Error("it was written to")
	}
}
