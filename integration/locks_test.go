package integration_test

import (
	"errors"
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
				if busy && (failure == nil || !strings.Contains(failure.Error(), "lock")) || !busy && failure != nil {
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
