package vhd_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
	"github.com/virt-rotate/virt-rotate/vhdbridge/xapi/xapitest"
)

// rebind writes a stream into a file, and lets it build on base.vhd.
func rebind(t *testing.T, stream []byte, id string) (path string, err error) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "leaf.vhd")
	if err := os.WriteFile(path, stream, 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	f, err := vhd.OSFile(o)
	if err != nil {
		t.Fatal(err)
	}
	i, err := vhd.Rebind(f, "base.vhd", id)
	if i != nil {
		err = errors.Join(err, i.Close())
	}
	return path, err
}

// A difference as a XenServer host exports it names a device, at a place where nothing is: it
// is no image before it has a parent here, and one without errors then.
func TestADifferenceOfAnUnknownParentIsBoundToAnother(t *testing.T) {
	was, now := bytes.Repeat([]byte{1}, 6<<20), bytes.Repeat([]byte{1}, 6<<20)
	copy(now[3<<20:], "other")
	stream := xapitest.Stream(now, was)
	if _, err := vhd.ReadInfo(bytes.NewReader(stream), int64(len(stream))); err == nil {
		t.Error("the stream is an image as it is: the test is of no use")
	}
	id := vhd.NewUUID()
	path, err := rebind(t, stream, id.String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := vhd.Look(bytes.NewReader(b), int64(len(b)))
	if err != nil || s.ParentPath != "base.vhd" || s.ParentUUID != id || s.Allocated != 1 {
		t.Errorf("%+v %v", s, err)
	}
	if found, err := vhd.CheckReader(bytes.NewReader(b), int64(len(b))); err != nil || found.Corruptions+found.Leaks > 0 {
		t.Errorf("%+v %v", found, err)
	}
	i, err := vhd.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	have := make([]byte, 2<<20)
	if _, err := i.ReadAt(have, 2<<20); err != nil || !bytes.Equal(have, now[2<<20:4<<20]) {
		t.Error("the block reads otherwise", err)
	}
}

func TestWhatCannotBeBoundIsLeftAlone(t *testing.T) {
	id := vhd.NewUUID().String()
	var bad *vhd.FormatError
	if _, err := rebind(t, xapitest.Stream(make([]byte, 4<<20), nil), id); !errors.As(err, &bad) {
		t.Errorf("a dynamic disk: %v", err)
	}
	if _, err := rebind(t, make([]byte, 4096), id); !errors.Is(err, vhd.ErrNotVHD) {
		t.Errorf("zeros: %v", err)
	}
	if _, err := rebind(t, []byte("short"), id); !errors.As(err, &bad) {
		t.Errorf("a short file: %v", err)
	}
	if _, err := rebind(t, make([]byte, 4096), "no UUID"); err == nil {
		t.Error("no UUID")
	}
}
