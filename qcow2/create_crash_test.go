package qcow2_test

import (
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
	"github.com/virt-rotate/virt-rotate/qcow2"
)

// Whenever power is lost while an image is made, there is all of it or no header.
func TestAnImageThatIsMadeHalfHasNoHeader(t *testing.T) {
	o := qcow2.CreateOptions{Size: 1 << 40, Backing: "base.qcow2", BackingFormat: "qcow2"} // an L1 table of some clusters
	for n := 1; ; n++ {
		fs := vfstest.New()
		f, err := fs.Create("/image", 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if err := fs.SyncDir("/"); err != nil {
			t.Fatal(err)
		}
		var after []*vfstest.Mem
		fs.Before(n, func() {
			for seed := range uint64(64) {
				after = append(after, fs.Crash(seed))
			}
		})
		if err := qcow2.Create(f, o); err != nil {
			t.Fatal(err)
		}
		if after == nil {
			if n < 5 {
				t.Errorf("only %d changes: is the hook broken?", n-1)
			}
			return
		}
		for seed, fs := range after {
			wholeOrHeadless(t, n, seed, fs)
		}
	}
}

func wholeOrHeadless(t *testing.T, n, seed int, fs *vfstest.Mem) {
	t.Helper()
	f, err := fs.Open("/image", false)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	var sector [512]byte
	if k, _ := f.ReadAt(sector[:], 0); k < len(sector) || sector == [512]byte{} {
		return
	}
	h, err := qcow2.ReadHeader(f, info.Size)
	if err != nil {
		t.Fatalf("change %d, seed %d: %v", n, seed, err)
	}
	if blank, err := qcow2.Blank(f, h, info.Size); err != nil || !blank {
		t.Fatalf("change %d, seed %d: blank %v, %v", n, seed, blank, err)
	}
}
