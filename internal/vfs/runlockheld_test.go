package vfs

import (
	"path/filepath"
	"testing"
)

func TestWhoHoldsTheRunLockIsSeenWithoutTakingIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	held := func(want bool, when string) {
		t.Helper()
		if got, err := RunLockHeld(path); err != nil || got != want {
			t.Errorf("%s: %v, %v", when, got, err)
		}
	}
	held(false, "no file")
	l, err := AcquireRunLock(path)
	must(t, err)
	held(true, "held")
	if _, err := AcquireRunLock(path); err == nil {
		t.Error("looking has released it")
	}
	must(t, l.Close())
	held(false, "released")
}

func TestTheKernelsListOfLocksIsRead(t *testing.T) {
	const list = "1: POSIX  ADVISORY  WRITE 7 08:01:99 0 EOF\n2: FLOCK  ADVISORY  READ 8 08:01:99 0 EOF\n3: FLOCK  ADVISORY  WRITE 4711 00:2a:99 0 EOF\n3: -> FLOCK\n"
	for _, c := range []struct {
		signed   string
		dev, ino uint64
		want     bool
	}{
		{"", 0x2a, 99, true},
		{"", 0x801, 99, false},
		{"pid 4711 since", 0x801, 99, true},
		{"pid 471 since", 0x801, 99, false},
		{"pid 4711 since", 0x801, 9, false},
	} {
		if got := heldIn(list, c.signed, c.dev, c.ino); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
