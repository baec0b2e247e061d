package integration_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A running guest writes to its active layer and reads the others: the engine
// may read those, and write to none.
func TestTheEngineIsKeptOutOfImagesThatAGuestHas(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1"})
	b.rotations("g1", 3)
	chain := b.chain("g1", "vda") // active first
	for i, l := range chain {
		for _, mode := range []vfs.LockMode{vfs.LockRead, vfs.LockWrite} {
			busy := i == 0 || mode == vfs.LockWrite
			err := lockImage(t, l.Path, mode, func() {})
			var held *vfs.BusyError
			if busy && (!errors.As(err, &held) || held.Path != l.Path) || !busy && err != nil {
				t.Errorf("layer %d, mode %d: %v", i, mode, err)
			}
		}
	}
}

// The other way round: a guest does not start on what the engine writes to, and
// shares with it what both only read.
func TestAGuestIsKeptOutOfImagesThatTheEngineHas(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1"})
	b.rotations("g1", 2)
	chain := b.chain("g1", "vda")
	b.destroy("g1")
	for i, l := range chain {
		for _, mode := range []vfs.LockMode{vfs.LockRead, vfs.LockWrite} {
			busy := i == 0 || mode == vfs.LockWrite
			err := lockImage(t, l.Path, mode, func() {
				_, failure := b.host.Virsh(t.Context(), "start", "g1")
				if busy && !b.locked("g1", failure) || !busy && failure != nil {
					t.Errorf("layer %d, mode %d: the guest's start: %v", i, mode, failure)
				}
				if failure == nil {
					b.destroy("g1")
				}
			})
			must(t, err)
		}
	}
	b.start("g1")
	b.waitWrites("g1", 30)
	b.checkGuest("g1")
}

// locked tells whether a guest did not start because of a lock. libvirt tells what QEMU has
// said, unless QEMU had ended before libvirt reached its monitor; QEMU's log has it always.
func (b *bed) locked(dom string, failure error) bool {
	if failure == nil {
		return false
	}
	text, err := os.ReadFile(b.path("log/qemu", dom+".log"))
	must(b.t, err)
	last := string(text[max(bytes.LastIndex(text, []byte("starting up")), 0):])
	return strings.Contains(failure.Error(), "lock") || strings.Contains(last, "Failed to get")
}

// lockImage calls do while it has the image locked.
func lockImage(t *testing.T, path string, mode vfs.LockMode, do func()) error {
	t.Helper()
	f, err := vfs.OS().Open(path, mode == vfs.LockWrite)
	must(t, err)
	defer f.Close()
	if err := f.Lock(mode); err != nil {
		return err
	}
	do()
	return nil
}
