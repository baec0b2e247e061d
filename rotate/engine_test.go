package rotate

import (
	"errors"
	"syscall"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
)

// Part of an overlay would pass for one that a guest has written to, and be left
// behind for a person to look at.
func TestAnOverlayThatCannotBeMadeStaysEmpty(t *testing.T) {
	fs := vfstest.New()
	f, err := fs.Create("/overlay", 0o600)
	must(err)
	must(f.Close())
	n := &Native{Store: chain.Store{FS: fs}, NewOverlay: func(f vfs.File, _ int64, _, _ string) error {
		if _, err := f.WriteAt(make([]byte, 4096), 0); err != nil {
			return err
		}
		return syscall.ENOSPC
	}}
	if err := n.Overlay(t.Context(), "/overlay", Layer{}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
	if info, err := fs.Stat("/overlay"); err != nil || info.Size != 0 {
		t.Errorf("%+v, %v", info, err)
	}
}
