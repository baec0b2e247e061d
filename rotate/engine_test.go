package rotate

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/images"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
	"github.com/virt-rotate/virt-rotate/qcow2"
	"github.com/virt-rotate/virt-rotate/rotate/engine"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// Part of an overlay would pass for one that a guest has written to, and be left
// behind for a person to look at.
func TestAnOverlayThatCannotBeMadeStaysEmpty(t *testing.T) {
	fs := vfstest.New()
	f, err := fs.Create("/overlay", 0o600)
	hosttest.Must(err)
	hosttest.Must(f.Close())
	n := &engine.Native{Store: chain.Store{FS: fs}, NewOverlay: func(f vfs.File, _ string, _ int64, _, _ string) error {
		if _, err := f.WriteAt(make([]byte, 4096), 0); err != nil {
			return err
		}
		return syscall.ENOSPC
	}}
	if err := n.Overlay(t.Context(), "/overlay", host.Layer{}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
	if info, err := fs.Stat("/overlay"); err != nil || info.Size != 0 {
		t.Errorf("%+v, %v", info, err)
	}
}

// withoutName is the header of an overlay whose backing file's name is not there yet.
func withoutName() []byte {
	h := make([]byte, 112)
	copy(h, "QFI\xfb\x00\x00\x00\x03")
	binary.BigEndian.PutUint64(h[8:], 512)
	binary.BigEndian.PutUint32(h[16:], 9)
	binary.BigEndian.PutUint32(h[100:], 112)
	return h
}

// libvirt makes an overlay of another guest in the same directory just when the
// engine looks there. What stays as it is, is refused.
func TestAFileThatIsJustWrittenIsLookedAtAgain(t *testing.T) {
	for _, finished := range []bool{true, false} {
		dir := t.TempDir()
		n := &engine.Native{Store: *images.Store(vfs.OS(), dir), NewOverlay: func(f vfs.File, _ string, size int64, backing, format string) error {
			return qcow2.Create(f, qcow2.CreateOptions{Size: size, Backing: backing, BackingFormat: format})
		}}
		base := host.Layer{Path: filepath.Join(dir, "base"), Format: "raw", Size: 1 << 20}
		top := host.Layer{Path: filepath.Join(dir, "top"), Format: "qcow2"}
		other := filepath.Join(dir, "other")
		hosttest.Must(os.WriteFile(base.Path, make([]byte, base.Size), 0o600))
		hosttest.Must(os.WriteFile(top.Path, nil, 0o600))
		hosttest.Must(n.Overlay(t.Context(), top.Path, base))
		hosttest.Must(os.WriteFile(other, withoutName(), 0o600))
		if finished {
			time.AfterFunc(300*time.Millisecond, func() {
				hosttest.Must(os.WriteFile(other, nil, 0o600))
				hosttest.Must(n.Overlay(context.Background(), other, host.Layer{Path: "/elsewhere", Format: "raw", Size: 1 << 20}))
			})
		}
		err := n.Check(t.Context(), engine.Merge{Base: base, Top: top, Chain: []host.Layer{base, top}})
		if (err == nil) != finished || err != nil && !strings.Contains(err.Error(), other) {
			t.Errorf("finished %v: %v", finished, err)
		}
	}
}
