package coord

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Whether locks reach other hosts cannot be asked: a mount option may keep them here, and a
// FUSE file system may say nothing. So each host, while it is at work, holds the byte of its
// place in the file beats, and counts on there. Who finds that byte free looks whether the
// counter still moves: then the host lives, and its lock is not seen.
//
// In beats each place has 32 bytes: a number for the time that the host is at work (16 hexadecimal
// digits), the counter (15 decimal digits; 0: it is at work no more), and a newline.
const beatSize = 32

// A pulse is what a host has in beats.
type pulse struct{ session, count uint64 }

func (p pulse) encode() []byte { return fmt.Appendf(nil, "%016x%015d\n", p.session, p.count%1e15) }

// decodePulse returns nothing for what no host has written.
func decodePulse(b []byte) (p pulse) {
	if len(b) != beatSize || bytes.Count(b, []byte{0}) > 0 {
		return pulse{}
	}
	if n, err := fmt.Sscanf(string(b[:16])+" "+string(b[16:31]), "%x %d", &p.session, &p.count); n != 2 || err != nil {
		return pulse{}
	}
	return p
}

// Enter takes the byte of this host's place and counts until leave is called. The host has told
// something before.
func (s *share) Enter(ctx context.Context) (func(), error) {
	if s.placeless() {
		return func() {}, ctx.Err()
	}
	s.mu.Lock()
	place := s.place
	s.mu.Unlock()
	if place < 0 {
		return nil, errors.New("this host has told nothing yet")
	}
	f, err := vfs.OpenLockFile(s.path("beats"), true, true)
	if err != nil {
		return nil, err
	}
	waiting, cancel := context.WithTimeout(ctx, 5*s.beat())
	defer cancel()
	if err := f.Lock(waiting, lockPresence+int64(place), true); err != nil && !s.fleet.Blind {
		return nil, errors.Join(err, f.Close())
	}
	p := pulse{session: uint64(s.fleet.now().UnixNano()) ^ uint64(os.Getpid())<<40 | 1, count: 1}
	if err := f.Put(p.encode(), int64(place)*beatSize); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		s.count(f, place, p, end)
	}()
	return func() { close(end); <-ended }, nil
}

func (s *share) beat() time.Duration { return cmp.Or(s.fleet.Beat, beat) }

// count lets the counter move until end. What cannot be written is of no matter: then this
// host looks as if it were not at work.
func (s *share) count(f *vfs.LockFile, place int, p pulse, end chan struct{}) {
	defer f.Close()
	tick := time.NewTicker(s.beat())
	defer tick.Stop()
	for {
		select {
		case <-end:
			p.count = 0
			_ = f.Put(p.encode(), int64(place)*beatSize)
			return
		case <-tick.C:
			p.count++
			_ = f.Put(p.encode(), int64(place)*beatSize)
		}
	}
}

// Locks looks at the hosts that are at work.
func (s *share) Locks(ctx context.Context) (Crossing, error) {
	if s.placeless() {
		return CrossingUnknown, ctx.Err()
	}
	s.mu.Lock()
	place := s.place
	s.mu.Unlock()
	found, unseen, err := s.seen(place)
	for until := time.Now().Add(6 * s.beat()); err == nil && len(unseen) > 0 && time.Now().Before(until); {
		select {
		case <-ctx.Done():
			return found, ctx.Err()
		case <-time.After(s.beat() / 3):
		}
		var again map[int]pulse
		if _, again, err = s.seen(place); moved(unseen, again) {
			found = LocksStay
			break
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && found != CrossingUnknown {
		s.found = found
	}
	return found, err
}

// moved tells whether a host counts on whose byte is free.
func moved(before, now map[int]pulse) bool {
	for i, p := range now {
		if was, ok := before[i]; ok && was.session == p.session && was.count != p.count && p.count != 0 {
			return true
		}
	}
	return false
}

// seen takes the byte of each host and gives it back: who has it is seen. It returns the
// counters of those that look as if they were at work, and are not seen. The file is opened each
// time: on FUSE, one that is open reads as it did.
func (s *share) seen(me int) (found Crossing, unseen map[int]pulse, err error) {
	f, err := vfs.OpenLockFile(s.path("beats"), true, false)
	if errors.Is(err, fs.ErrNotExist) {
		return CrossingUnknown, nil, nil
	}
	if err != nil {
		return CrossingUnknown, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return found, nil, err
	}
	unseen = map[int]pulse{}
	for i := 0; i < mostHosts && int64(i)*beatSize < info.Size; i++ {
		if i == me {
			continue
		}
		free, err := f.TryLock(lockPresence+int64(i), true)
		if err != nil {
			return found, nil, err
		}
		if !free && !s.fleet.Blind {
			found = LocksCross
			continue
		}
		b := make([]byte, beatSize)
		if _, err := f.ReadAt(b, int64(i)*beatSize); err != nil {
			return found, nil, err
		}
		if err := f.Unlock(lockPresence + int64(i)); err != nil {
			return found, nil, err
		}
		if p := decodePulse(b); p.count > 0 {
			unseen[i] = p
		}
	}
	return found, unseen, nil
}

// stop takes back that a host was at work which is gone: nobody has to wait to see that.
func (s *share) stop(place int) error {
	f, err := vfs.OpenLockFile(s.path("beats"), true, true)
	if err != nil {
		return err
	}
	defer f.Close()
	if free, err := f.TryLock(lockPresence+int64(place), true); err != nil || !free {
		return err // it is at work, after all
	}
	return f.Put(pulse{}.encode(), int64(place)*beatSize)
}

// Take takes one of n slots of the storage.
func (s *share) Take(ctx context.Context, n int) (Hold, error) {
	id, err := s.identity()
	if err != nil {
		return nil, err
	}
	return s.ledger(id).take(ctx, max(n, 1))
}

// takeByte takes one of n bytes of the file slots.
func (s *share) takeByte(ctx context.Context, n int) (Hold, error) {
	f, err := vfs.OpenLockFile(s.path("slots"), true, true)
	if err != nil {
		return nil, err
	}
	for {
		for i := range n {
			got, err := f.TryLock(lockSlot+int64(i), true)
			if err != nil {
				return nil, errors.Join(err, f.Close())
			}
			if got {
				return &heldByte{f, int64(i)}, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-time.After(slotPause):
		}
	}
}

// A heldByte is a slot that is a locked byte of a file.
type heldByte struct {
	f    *vfs.LockFile
	slot int64
}

// Release gives the slot back.
func (h *heldByte) Release() { _ = h.f.Close() }

// Err writes to the file: a network file system whose lease has ended, and the lock with it, lets nothing be written that relies on it.
// Where there is no room for it, nothing is known.
func (h *heldByte) Err() error {
	err := h.f.Put([]byte{'.'}, h.slot)
	if err == nil || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return nil
	}
	return fmt.Errorf("the lock of the slot is lost: %w", err)
}

// Held is a slot that cannot be lost: Release gives it back.
type held func()

// Release gives the slot back.
func (h held) Release() { h() }

// Err is nil.
func (h held) Err() error { return nil }

// slotPause is how long a merge waits before it looks for a free slot again.
const slotPause = 500 * time.Millisecond
