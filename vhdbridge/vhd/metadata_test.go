package vhd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
)

// growing makes an image whose table is about to get longer, with its first block
// where that will be.
func growing(l *lab) {
	l.create("disk", CreateOptions{Size: 256 * 512, BlockSize: 1024, Backing: "base/below.raw", BackingFormat: "raw"})
	for n := range int64(6) {
		l.put("disk", n*3*1024, 512, byte(n+1))
	}
	l.put("disk", 9*1024+512, 512, 4) // that block is full, and a smaller disk cuts it
}

func TestATableThatGrowsMovesBlocksOutOfItsWay(t *testing.T) {
	l := newLab(t)
	growing(l)
	was := l.parsed("disk").Over(make([]byte, 256*512))
	first := l.parsed("disk").Layout()[0]
	i := l.open("disk")
	l.must(i.Prepare())
	l.must(i.Resize(5000*512, 300*512))
	l.must(i.Close())
	d := l.parsed("disk")
	if d.Layout()[0] == first {
		t.Error("the first block was not in the way: the test is none")
	}
	below := bytes.Repeat([]byte{0xEE}, 5000*512)
	view := d.Over(below)
	if d.Size() != 5000*512 || !bytes.Equal(view[256*512:300*512], make([]byte, 44*512)) || view[300*512] != 0xEE {
		t.Error("what is new does not read as it should")
	}
	if !bytes.Equal(d.Over(nil)[:256*512], was) {
		t.Error("what was there reads differently")
	}
	if d.Parents()["MacX"] != "base/below.raw" || len(d.Parents()) != 3 {
		t.Errorf("%v", d.Parents())
	}
	if r := l.check("disk", RepairNone); r.Corruptions != 0 {
		t.Errorf("%v", r.Problems)
	}
}

// A change of the metadata is there or it is not, whenever power is lost.
func TestPowerLossInAChangeOfTheMetadata(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(i *Image) error
		done func(d Info) bool
	}{
		"grow":   {func(i *Image) error { return i.Resize(5000*512, 300*512) }, func(d Info) bool { return d.Size == 5000*512 }},
		"shrink": {func(i *Image) error { return i.Resize(9*1024+512, 0) }, func(d Info) bool { return d.Size == 9*1024+512 }},
		"hide":   {func(i *Image) error { return i.SetHidden(true) }, func(d Info) bool { return d.Hidden }},
		"relink": {func(i *Image) error { return i.SetParent("../"+strings.Repeat("x", 200)+"/other.raw", "raw", "") },
			func(d Info) bool { return strings.HasSuffix(d.ParentPath, "x/other.raw") }},
		"alone":      {func(i *Image) error { return i.SetParent("", "", "") }, func(d Info) bool { return d.Type == Dynamic }},
		"new parent": {func(i *Image) error { return i.SetParent("p.vhd", "vhd", UUID{1}.String()) }, func(d Info) bool { return d.ParentUUID == UUID{1} }},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			growing(l)
			states, olds, news, fates := 0, 0, 0, uint64(48)
			if os.Getenv("VIRT_ROTATE_CRASH_STATES") != "" {
				fates = 1500 // that all of a record survives, and not what came before it, is rare
			}
			for n := 1; ; n++ {
				run := &lab{t, l.mem.Crash(1)}
				i := run.open("disk")
				l.must(i.Prepare())
				var after []*vfstest.Mem
				run.mem.Before(n, func() {
					for fate := range fates {
						after = append(after, run.mem.Crash(fate))
					}
				})
				l.must(c.do(i))
				if after == nil {
					break
				}
				for fate, mem := range after {
					states++
					is := crashed(t, &lab{t, mem}, c.done, c.do)
					if is {
						news++
					} else {
						olds++
					}
					if t.Failed() {
						t.Fatalf("power lost before change %d, fate %d\n%s", n, fate, strings.Join(run.mem.Log(), "\n"))
					}
				}
			}
			if olds == 0 || news == 0 || states < 24 {
				t.Errorf("%d states, %d old, %d new: the test is none", states, olds, news)
			}
		})
	}
}

// crashed looks at an image after a crash, and lets the change be made. It tells
// whether it was there already.
func crashed(t *testing.T, l *lab, done func(Info) bool, do func(*Image) error) bool {
	t.Helper()
	b := l.bytes("disk")
	before, err := ReadInfo(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Error(err)
		return false
	}
	i := l.open("disk")
	view := make([]byte, min(9*1024+512, i.size))
	_, err = i.ReadAt(view, 0)
	for n := range int64(4) {
		if view[n*3*1024] != byte(n+1) {
			t.Errorf("block %d is lost", n)
		}
	}
	if r := l.check("disk", RepairNone); err != nil || r.Damage != 0 || strings.Contains(fmt.Sprint(r.Problems), "it says that block") {
		t.Errorf("%v, %v", err, r.Problems)
	}
	l.must(errors.Join(i.Prepare(), do(i), i.Close()))
	l.parsed("disk")
	b = l.bytes("disk")
	if now, err := ReadInfo(bytes.NewReader(b), int64(len(b))); err != nil || !done(now) {
		t.Errorf("%+v, %v", now, err)
	}
	if r := l.check("disk", RepairNone); r.Corruptions != 0 {
		t.Errorf("%v", r.Problems)
	}
	return done(before)
}

// What a torn header leaves others without: a repair carries out what is on record.
func TestARepairFinishesAnInterruptedChange(t *testing.T) {
	l := newLab(t)
	growing(l)
	repaired := 0
	for n := 1; ; n++ {
		run := &lab{t, l.mem.Crash(1)}
		i := run.open("disk")
		var after *vfstest.Mem
		run.mem.Before(n, func() { after = run.mem.Crash(1) })
		l.must(i.SetParent("other.raw", "raw", ""))
		if after == nil {
			break
		}
		crash := &lab{t, after}
		if r := crash.check("disk", RepairNone); r.ProblemCount == 0 {
			continue
		}
		repaired++
		if r := crash.check("disk", RepairAll); r.ProblemCount != 0 || len(r.Repaired) == 0 {
			t.Errorf("change %d: %+v", n, r)
		}
		crash.parsed("disk")
	}
	if repaired < 3 {
		t.Errorf("%d states", repaired)
	}
}

func TestARecordThatAGuestWroteMeansNothing(t *testing.T) {
	l := newLab(t)
	l.create("disk", CreateOptions{Size: 4 * mib})
	l.put("disk", 0, 4*mib, 5)
	i := l.open("disk")
	c := &record{oldSize: i.m.size, newSize: i.m.size, patches: []patch{{0, []byte("evil")}}, end: i.m.foot.encode()}
	body := c.body()
	c.start = i.m.size - footerLen - int64(len(body))
	mark := c.marked(i.m.foot, body)
	// All that a guest can write is in the blocks, here the last sectors before the footer.
	l.patch("disk", i.m.size-footerLen-int64(len(mark))-int64(len(body)), append(body, mark[:]...))
	i = l.open("disk")
	if i.m.pending != nil || i.m.torn {
		t.Error("it was believed")
	}
}

// What a larger disk had beyond the end of a smaller one is not seen when it grows
// again, whenever power is lost.
func TestNothingOldIsSeenWhenADiskGrows(t *testing.T) {
	l := newLab(t)
	growing(l)
	l.put("disk", 11*1024, 1024, 0xEE)
	l.refooted("disk", func(b []byte) { binary.BigEndian.PutUint64(b[offCurrentSize:], 9*1024+512) })
	grown := 0
	for n := 1; ; n++ {
		run := &lab{t, l.mem.Crash(1)}
		i := run.open("disk")
		l.must(i.Prepare())
		var after []*vfstest.Mem
		run.mem.Before(n, func() {
			for fate := range uint64(24) {
				after = append(after, run.mem.Crash(fate))
			}
		})
		l.must(i.Resize(20*1024, 0))
		if after == nil {
			break
		}
		for _, mem := range after {
			crash := &lab{t, mem}
			i := crash.open("disk")
			b := make([]byte, 20*1024)
			if _, err := i.ReadAt(b, 0); err != nil || !bytes.Equal(b[9*1024+512:], make([]byte, len(b)-9*1024-512)) {
				t.Fatalf("power lost before change %d: old data is seen, %v", n, err)
			}
			if i.size == 20*1024 {
				grown++
			}
		}
	}
	if grown == 0 {
		t.Error("it never grew")
	}
}

// A host that crashes in the middle of a copy leaves a file with a footer at its end.
func TestTheFooterIsAtTheEndBeforeDataGoesOverTheOldOne(t *testing.T) {
	l := newLab(t)
	l.create("disk", CreateOptions{Size: 64 * mib})
	i := l.open("disk")
	l.must(i.Prepare())
	for n := range int64(5) {
		placed, err := i.Place([]chain.Piece{{Offset: n * 2 * mib, Length: 4096}})
		l.must(err)
		_, err = i.f.WriteAt(bytes.Repeat([]byte{1}, 4096), placed[0].Host)
		l.must(err)
		for fate := range uint64(24) {
			b := (&lab{t, l.mem.Crash(fate)}).bytes("disk")
			if info, err := ReadInfo(bytes.NewReader(b), int64(len(b))); err != nil || !info.EndFooter {
				t.Fatalf("block %d, fate %d: %+v, %v", n, fate, info, err)
			}
		}
	}
}

// XenServer's tools leave zeros in the table for blocks that a smaller disk lost.
func TestEntriesBeyondTheDiskLeadNowhere(t *testing.T) {
	l := newLab(t)
	l.create("disk", CreateOptions{Size: 16 * mib})
	l.put("disk", 0, 512, 7)
	l.put("disk", 4*mib, 512, 8)
	l.refooted("disk", func(b []byte) { binary.BigEndian.PutUint64(b[offCurrentSize:], 6*mib) })
	l.patch("disk", tableStart+4*5, []byte{0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xF0})
	for _, size := range []int64{4 * mib, 16 * mib} {
		i := l.open("disk")
		l.must(i.Prepare())
		l.must(errors.Join(i.Resize(size, 0), i.Close()))
		view := l.parsed("disk").Over(nil)
		if int64(len(view)) != size || bytes.Count(view, []byte{7}) != 512 || bytes.Count(view, []byte{0}) != int(size)-512 {
			t.Errorf("%d bytes: it reads differently", size)
		}
	}
}
