package vhd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
)

const mib = 1 << 20

func TestGeometryIsRoundedDown(t *testing.T) {
	for size, want := range map[int64]uint32{
		64 * mib:              963<<16 | 8<<8 | 17, // as XenServer has it
		33554432:              963<<16 | 4<<8 | 17,
		80 * mib:              963<<16 | 10<<8 | 17,
		512:                   0<<16 | 4<<8 | 17,
		2040 << 30:            65535<<16 | 16<<8 | 255,
		127 << 30:             65278<<16 | 16<<8 | 255,
		1 << 30:               2080<<16 | 16<<8 | 63,
		500 * mib:             1015<<16 | 16<<8 | 63,
		8194 * mib:            16648<<16 | 16<<8 | 63,
		65535 * 16 * 63 * 512: 16191<<16 | 16<<8 | 255,
	} {
		have := geometry(size)
		if sectors := int64(have>>16) * int64(have>>8&255) * int64(have&255); sectors*512 > size {
			t.Errorf("%d: %d sectors are more than the disk has", size, sectors)
		}
		if have != want {
			t.Errorf("%d: %d/%d/%d, want %d/%d/%d", size, have>>16, have>>8&255, have&255, want>>16, want>>8&255, want&255)
		}
	}
}

// At 8194 MiB the batmap needs one bit more than fits into a sector. XenServer's
// tools take one sector all the same: block 4096 has no bit in theirs.
func TestTheBatmapEdgeAt8194MiB(t *testing.T) {
	l := newLab(t)
	l.create("disk", CreateOptions{Size: 8194 * mib})
	if i := l.open("disk"); i.m.batmap.bytes != 1024 || len(i.bat) != 4097 {
		t.Errorf("a batmap of %d bytes for %d blocks", i.m.batmap.bytes, len(i.bat))
	}
	l.put("disk", 8192*mib, 2*mib, 1)
	l.put("disk", 8190*mib, 2*mib, 2)
	full, err := l.parsed("disk").Full()
	if err != nil || !full[4096] || !full[4095] || len(full) != 2 {
		t.Errorf("%v, %v", full, err)
	}
	if r := l.check("disk", RepairNone); r.ProblemCount != 0 {
		t.Errorf("%v", r.Problems)
	}
}

func TestABatmapThatIsTooShortIsLivedWith(t *testing.T) {
	l := newLab(t)
	l.create("disk", CreateOptions{Size: 8194 * mib})
	i := l.open("disk")
	at := i.m.batmap.at
	head := l.bytes("disk")[at:][:sectorSize]
	head[offBatmapSectors+3] = 1
	l.patch("disk", at, head)
	l.put("disk", 8192*mib, 2*mib, 1)
	l.put("disk", 8190*mib, 2*mib, 2)
	full, err := l.parsed("disk").Full()
	if err != nil || len(full) != 1 || !full[4095] {
		t.Errorf("%v, %v", full, err)
	}
	if r := l.check("disk", RepairNone); r.ProblemCount != 0 {
		t.Errorf("%v", r.Problems)
	}
}

func TestOnlyTheSectorsThatWereWrittenAreThere(t *testing.T) {
	l := newLab(t)
	l.create("disk", CreateOptions{Size: 6 * mib, Backing: "below.raw", BackingFormat: "raw"})
	l.put("disk", 2*mib-512, 1024, 7) // over a border of blocks
	l.put("disk", 4*mib+8*512, 512, 8)
	i := l.open("disk")
	want := []chain.Extent{
		{Offset: 0, Length: 2*mib - 512, Kind: chain.Hole},
		{Offset: 2*mib - 512, Length: 512, Kind: chain.Data},
		{Offset: 2 * mib, Length: 512, Kind: chain.Data},
		{Offset: 2*mib + 512, Length: 2*mib - 512, Kind: chain.Hole},
		{Offset: 4 * mib, Length: 8 * 512, Kind: chain.Hole},
		{Offset: 4*mib + 8*512, Length: 512, Kind: chain.Data},
		{Offset: 4*mib + 9*512, Length: 2*mib - 9*512, Kind: chain.Hole},
	}
	i.holes = nil
	for off := int64(0); off < 6*mib; {
		x, err := i.Extent(off, 6*mib)
		if err != nil || len(want) == 0 || x.Offset != want[0].Offset || x.Length != want[0].Length || x.Kind != want[0].Kind {
			t.Fatalf("%+v, %v; want %+v", x, err, want)
		}
		want, off = want[1:], x.End()
	}
	below := bytes.Repeat([]byte{1}, 6*mib)
	view := l.parsed("disk").Over(below)
	if bytes.Count(view, []byte{7}) != 1024 || bytes.Count(view, []byte{8}) != 512 || bytes.Count(view, []byte{1}) != 6*mib-1536 {
		t.Error("the other reader sees something else")
	}
}

func TestZerosMaskTheParentAndTakeNoSpace(t *testing.T) {
	l := newLab(t)
	l.create("disk", CreateOptions{Size: 64 * mib, Backing: "below.raw", BackingFormat: "raw"})
	l.put("disk", 512, 63*mib, 0)
	l.put("disk", 63*mib, 512, 9)
	view := l.parsed("disk").Over(bytes.Repeat([]byte{1}, 64*mib))
	if n := bytes.Count(view, []byte{0}); n != 63*mib-512 {
		t.Errorf("%d zeros", n)
	}
	i := l.open("disk")
	x, err := i.Extent(2*mib, 4*mib)
	if err != nil || x.Kind != chain.Zero || x.Length != 2*mib {
		t.Errorf("%+v, %v", x, err)
	}
	info, err := i.f.Stat()
	if err != nil || info.Allocated > mib {
		t.Errorf("%d bytes allocated, %v", info.Allocated, err)
	}
}

func TestALyingBatmapChangesNothingAndIsMadeRight(t *testing.T) {
	l := newLab(t)
	l.create("disk", CreateOptions{Size: 8 * mib, Backing: "below.raw", BackingFormat: "raw"})
	l.put("disk", 0, 512, 7)
	l.put("disk", 2*mib, 2*mib, 6)
	i := l.open("disk")
	bits := make([]byte, i.m.batmap.bytes)
	bits[0] = 0xF0 // all blocks are full
	l.must(i.writeBatmap(bits))
	l.must(i.Close())
	i = l.open("disk")
	if x, err := i.Extent(512, 8*mib); err != nil || x.Kind != chain.Hole {
		t.Errorf("the batmap was believed: %+v, %v", x, err)
	}
	l.must(i.Close())
	r := l.check("disk", RepairNone)
	if r.Corruptions != 3 || r.Damage != 0 {
		t.Errorf("%+v", r)
	}
	r = l.check("disk", RepairAll)
	if r.Corruptions != 0 || r.CorruptionsFixed != 3 || len(r.Repaired) != 3 {
		t.Errorf("%+v", r)
	}
	full, err := l.parsed("disk").Full()
	if err != nil || len(full) != 1 || !full[1] {
		t.Errorf("%v, %v", full, err)
	}
	i = l.open("disk")
	l.must(i.writeBatmap(bits))
	l.must(i.Prepare())
	if hasBit(i.w.bits, 0) || !hasBit(i.w.bits, 1) || hasBit(i.w.bits, 2) {
		t.Errorf("Prepare left the batmap as it was: %x", i.w.bits[0])
	}
}

// Footers that are lost, old, short or in use.
func TestWhatIsAtTheEndOfTheFile(t *testing.T) {
	for name, c := range map[string]struct {
		spoil    func(l *lab, size int64)
		opens    bool
		problems int64
		says     string
	}{
		"as it should be": {func(*lab, int64) {}, true, 0, ""},
		"zeros":           {func(l *lab, n int64) { l.patch("disk", n-512, make([]byte, 512)) }, true, 1, "missing"},
		"cut off":         {func(l *lab, n int64) { f := l.file("disk"); l.must(f.Truncate(n - 512)); l.must(f.Close()) }, true, 1, "missing"},
		"511 bytes":       {func(l *lab, n int64) { f := l.file("disk"); l.must(f.Truncate(n - 1)); l.must(f.Close()) }, true, 1, "511"},
		"damaged":         {func(l *lab, n int64) { l.patch("disk", n-400, []byte{1}) }, true, 1, "damaged"},
		"in use":          {func(l *lab, n int64) { l.patch("disk", n-512, bytes.Repeat([]byte{0xC7}, 512)) }, false, 1, "in use"},
		"copy lost":       {func(l *lab, _ int64) { l.patch("disk", 0, make([]byte, 512)) }, true, 1, "copy"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.create("disk", CreateOptions{Size: 4 * mib})
			l.put("disk", 0, 4*mib, 5)
			l.refooted("disk", func(b []byte) { b[offHidden] = 1 })
			want := l.bytes("disk")
			c.spoil(l, int64(len(want)))
			spoiled := l.bytes("disk")
			s, err := Open(l.file("disk"))
			if (err == nil) != c.opens || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
			if err == nil && !s.(*Image).Info().Hidden {
				t.Error("the hidden flag is lost")
			}
			r := l.check("disk", RepairNone)
			if r.ProblemCount != c.problems || c.says != "" && !strings.Contains(fmt.Sprint(r.Problems), c.says) {
				t.Errorf("%v", r.Problems)
			}
			if !bytes.Equal(l.bytes("disk"), spoiled) {
				t.Error("a check has changed the file")
			}
			r = l.check("disk", RepairAll)
			if r.ProblemCount != 0 || r.CorruptionsFixed != c.problems || int64(len(r.Repaired)) != c.problems {
				t.Errorf("repaired: %+v", r)
			}
			if !bytes.Equal(l.bytes("disk"), want) {
				t.Error("it is not as it was")
			}
		})
	}
}

func TestImagesThatMustNotBeTouchedAreRefusedByName(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(l *lab)
		says  string
	}{
		"an interrupted resize": {func(l *lab) { l.refooted("disk", func(b []byte) { copy(b, poisonCookie) }) }, "v_poison"},
		"bitmaps of old": {func(l *lab) {
			l.refooted("disk", func(b []byte) { copy(b[offCreatorVersion:], []byte{0, 0, 0, 1}) })
		}, "first version"},
		"another version": {func(l *lab) { l.refooted("disk", func(b []byte) { b[offVersion+1] = 2 }) }, "version 2"},
		"another type":    {func(l *lab) { l.refooted("disk", func(b []byte) { b[offType+3] = 5 }) }, "type 5"},
		"another header":  {func(l *lab) { l.reheaded("disk", func(b []byte) { b[offHeaderVersion] = 9 }) }, "header version"},
		"two disks' footers": {func(l *lab) {
			b := l.bytes("disk")
			f := b[len(b)-512:]
			f[offUUID]++
			l.patch("disk", int64(len(b)-512), resum(f, offChecksum))
		}, "another disk"},
		"a half written head": {func(l *lab) { l.patch("disk", headerStart+512, bytes.Repeat([]byte{1}, 100)) }, "half written"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.create("disk", CreateOptions{Size: 4 * mib})
			c.spoil(l)
			before := l.bytes("disk")
			_, err := Open(l.file("disk"))
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
			wantKnownError(t, err)
			if _, err := Check(l.file("disk"), RepairAll); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("check: %v", err)
			}
			if !bytes.Equal(l.bytes("disk"), before) {
				t.Error("the file was changed")
			}
		})
	}
}

func wantKnownError(t testing.TB, err error) {
	t.Helper()
	var malformed *FormatError
	var unsupported *UnsupportedError
	if !errors.Is(err, ErrNotVHD) && !errors.As(err, &malformed) && !errors.As(err, &unsupported) {
		t.Errorf("%v", err)
	}
}

func TestEncryptedDataIsRefused(t *testing.T) {
	l := newLab(t)
	l.create("disk", CreateOptions{Size: 4 * mib})
	l.put("disk", 0, 512, 1)
	i := l.open("disk")
	l.patch("disk", i.m.batmap.at+offBatmapKeyHash, []byte{1})
	i = l.open("disk")
	if !i.Image().Encrypted {
		t.Fatal("not recognised")
	}
	if _, err := chain.NewStack(i); err == nil || !strings.Contains(err.Error(), "encrypted") {
		t.Errorf("%v", err)
	}
	if err := i.Prepare(); err == nil || !strings.Contains(err.Error(), "encrypted") {
		t.Errorf("%v", err)
	}
	if _, err := i.ReadAt(make([]byte, 512), 0); err == nil {
		t.Error("it was read")
	}
}

func TestAFixedDiskIsNeverProbed(t *testing.T) {
	l := newLab(t)
	l.create("disk", CreateOptions{Size: 4 * mib, Fixed: true})
	l.create("fake", CreateOptions{Size: 4 * mib, Backing: "secret", BackingFormat: "raw"})
	if yes, err := Probe(l.file("disk")); yes || err != nil {
		t.Errorf("%v, %v", yes, err)
	}
	// A guest writes the beginning of a differencing disk into its fixed one.
	l.patch("disk", 0, l.bytes("fake")[:4096])
	s, err := Open(l.file("disk"))
	l.must(err)
	if i := s.Image(); i.Backing != "" || i.VirtualSize != 4*mib {
		t.Errorf("%+v", i)
	}
	b := make([]byte, 4096)
	if _, err := s.ReadAt(b, 0); err != nil || !bytes.Equal(b, l.bytes("fake")[:4096]) {
		t.Errorf("the guest reads something else, %v", err)
	}
}

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
			states, olds, news := 0, 0, 0
			for n := 1; ; n++ {
				run := &lab{t, l.mem.Crash(1)}
				i := run.open("disk")
				l.must(i.Prepare())
				var after []*vfstest.Mem
				run.mem.Before(n, func() {
					for fate := range uint64(64) {
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
