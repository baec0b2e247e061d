package vhd

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
)

// tapdiskDied makes what a tapdisk leaves that died: its mark at the end, or blocks over it.
func tapdiskDied(l *lab, over bool) (want []byte) {
	l.t.Helper()
	l.create("disk", CreateOptions{Size: 64 << 10, BlockSize: 16 << 10})
	l.put("disk", 20<<10, 4<<10, 7)
	b := l.bytes("disk")
	want = l.parsed("disk").Over(nil)
	f := l.file("disk")
	if over {
		l.must(errors.Join(f.Truncate(int64(len(b))-footerLen-8<<10), f.Sync(), f.Close()))
	} else {
		_, err := f.WriteAt(bytes.Repeat([]byte{inUseByte}, footerLen), int64(len(b)-footerLen))
		l.must(errors.Join(err, f.Sync(), f.Close()))
	}
	return want
}

// At every crash the image has what the tapdisk has left, or its footer, and can be
// released once more.
func TestReleaseSurvivesPowerLoss(t *testing.T) {
	for _, over := range []bool{false, true} {
		l := newLab(t)
		want := tapdiskDied(l, over)
		states := 0
		for n := 1; ; n++ {
			run := &lab{t, l.mem.Crash(1)}
			var after []*vfstest.Mem
			run.mem.Before(n, func() {
				for fate := range uint64(8) {
					after = append(after, run.mem.Crash(fate))
				}
			})
			f := run.file("disk")
			run.must(errors.Join(Release(f), f.Close()))
			if r := (&lab{t, run.mem.Crash(0)}).check("disk", RepairNone); r.ProblemCount > 0 {
				t.Errorf("it was not durable: %+v", r.Problems)
			}
			for _, mem := range append(after, run.mem) {
				states++
				crash := &lab{t, mem}
				f := crash.file("disk")
				crash.must(errors.Join(Release(f), f.Close()))
				if have := crash.parsed("disk").Over(nil); !bytes.Equal(have, want) {
					t.Errorf("change %d: it reads differently", n)
				}
				if r := crash.check("disk", RepairNone); r.ProblemCount > 0 {
					t.Errorf("change %d: %+v", n, r.Problems)
				}
			}
			if after == nil {
				break
			}
		}
		if states < 9 {
			t.Errorf("%d states", states)
		}
	}
}

// What a crash of the tapdisk does not explain is left alone.
func TestReleaseLeavesDamageAlone(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(l *lab)
		want   string
	}{
		"nothing is marked": {func(*lab) {}, ""},
		"cut off in its data": {func(l *lab) {
			tapdiskDied(l, true)
			f := l.file("disk")
			size, err := f.Size()
			l.must(errors.Join(err, f.Truncate(size-6<<10), f.Close()))
		}, "cut off"},
		"overlapping blocks": {func(l *lab) {
			tapdiskDied(l, false)
			l.put2("disk")
		}, "overlaps"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			if c.want == "" {
				l.create("disk", CreateOptions{Size: 64 << 10, BlockSize: 16 << 10})
			}
			c.damage(l)
			before := l.bytes("disk")
			f := l.file("disk")
			defer f.Close()
			err := Release(f)
			var bad *FormatError
			if (c.want == "") != (err == nil) || err != nil && (!errors.As(err, &bad) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v", err)
			}
			if !bytes.Equal(l.bytes("disk"), before) {
				t.Error("it was changed")
			}
		})
	}
}

// put2 lets the first block be where the second is.
func (l *lab) put2(name string) {
	l.t.Helper()
	entry := l.bytes(name)[tableStart+4:][:4]
	l.patch(name, tableStart, entry)
}

// A device has its footer at its very end, with anything in between.
func TestADeviceIsReleased(t *testing.T) {
	l := newLab(t)
	volume(l, 64<<10)
	want := l.bytes("disk")
	l.patch("disk", 64<<10-footerLen, bytes.Repeat([]byte{inUseByte}, footerLen))
	l.must(Release(&device{l.file("disk"), t}))
	if !bytes.Equal(l.bytes("disk"), want) {
		t.Error("it is not as before")
	}
	l.patch("disk", 64<<10-footerLen, bytes.Repeat([]byte{1}, footerLen))
	l.must(Release(&device{l.file("disk"), t}))
	if !bytes.Equal(l.bytes("disk"), want) {
		t.Error("it is not as before the end was lost")
	}
}

// A file that is as long as a logical volume has room behind its blocks, in which there can
// be anything; in any other file that is space that is lost.
func TestRoomOfAVolumeIsNoLeak(t *testing.T) {
	for size, leaks := range map[int64]int64{extentBytes: 0, extentBytes + sectorSize: 1} {
		l := newLab(t)
		l.create("disk", CreateOptions{Size: 64 << 10, BlockSize: 16 << 10})
		l.put("disk", 0, 4<<10, 7)
		b := l.bytes("disk")
		foot := b[len(b)-footerLen:]
		l.patch("disk", int64(len(b)-footerLen), append(bytes.Repeat([]byte("old"), int(size))[:size-int64(len(b))], foot...))
		if r := l.check("disk", RepairNone); r.Leaks != leaks || r.Corruptions > 0 {
			t.Errorf("%d bytes: %+v", size, r)
		}
		l.check("disk", RepairAll)
		l.parsed("disk")
	}
}

// FuzzRelease: what is released can be read, needs no more of it, and reads as before if it
// could be read; what is refused has not changed. A look at it agrees with opening it.
func FuzzRelease(f *testing.F) {
	for _, image := range seeds(f) {
		f.Add(image)
		f.Add(image[:max(0, len(image)-footerLen)])
		f.Add(append(image[:max(0, len(image)-footerLen):len(image)], bytes.Repeat([]byte{inUseByte}, footerLen)...))
	}
	f.Fuzz(func(t *testing.T, image []byte) {
		l := newLab(t)
		file, err := l.mem.Create(l.path("disk"), 0o600)
		l.must(err)
		_, err = file.WriteAt(image, 0)
		l.must(err)
		view, readable := l.view("disk")
		if _, err := Look(file, int64(len(image))); readable && err != nil {
			t.Fatalf("it can be opened, and not be looked at: %v", err)
		}
		needed, err := NeedsRelease(file, int64(len(image)))
		if again := Release(file); (again == nil) != (err == nil) {
			t.Fatalf("%v, then %v", err, again)
		}
		if err != nil || !needed {
			if !bytes.Equal(l.bytes("disk"), image) {
				t.Fatal("it was changed")
			}
			return
		}
		size, err := file.Size()
		l.must(err)
		if needed, err := NeedsRelease(file, size); needed || err != nil {
			t.Fatalf("needed once more: %v, %v", needed, err)
		}
		now, ok := l.view("disk")
		if readable && (!ok || !bytes.Equal(now, view)) {
			t.Fatal("it reads something else")
		}
		if s, err := Open(file); err != nil {
			t.Fatalf("%v %v", s, err)
		}
	})
}
