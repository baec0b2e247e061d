package vhd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
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

// Hyper-V writes an absolute and a relative name, no batmap, and blocks right behind
// the metadata.
func TestADiskAsHyperVWritesIt(t *testing.T) {
	l := newLab(t)
	l.create("disk", CreateOptions{Size: 8 * mib, Backing: "x.vhd", BackingFormat: "vhd", ParentID: UUID{1}.String()})
	l.refooted("disk", func(b []byte) { copy(b[offCreator:], "win \x00\x06\x00\x01Wi2k") })
	absolute, relative := utf16LE(`C:\VMs\golden\base.vhd`), utf16LE(`.\golden\base.vhd`)
	l.reheaded("disk", func(b []byte) {
		clear(b[offLocators:offHeaderReserved])
		for k, e := range []struct {
			code uint32
			n    int
			at   uint64
		}{{codeW2ku, len(absolute), 2048}, {codeW2ru, len(relative), 2560}} {
			at := b[offLocators+k*locatorLen:]
			binary.BigEndian.PutUint32(at, e.code)
			binary.BigEndian.PutUint32(at[offLocatorSpace:], 1) // sectors
			binary.BigEndian.PutUint32(at[offLocatorLength:], uint32(e.n))
			binary.BigEndian.PutUint64(at[offLocatorData:], e.at)
		}
	})
	l.patch("disk", 2048, append(append(absolute, make([]byte, 512-len(absolute))...), relative...))
	i := l.open("disk")
	if info := i.Info(); info.ParentPath != "golden/base.vhd" || info.HasBatmap || info.Creator != "win " {
		t.Errorf("%+v", info)
	}
	l.put("disk", 0, 4*mib, 3)
	l.must(l.open("disk").SetHidden(true))
	if i := l.open("disk"); !i.Info().Hidden || i.Info().ParentPath != "golden/base.vhd" || i.m.head.locators[0].code != codeW2ku {
		t.Errorf("hidden: %+v", i.Info())
	}
	l.must(l.open("disk").SetParent("other.vhd", "vhd", UUID{2}.String()))
	d := l.parsed("disk")
	if names := d.Parents(); len(names) != 3 || names["MacX"] != "other.vhd" {
		t.Errorf("%v", names)
	}
	if view := d.Over(make([]byte, 8*mib)); bytes.Count(view, []byte{3}) != 4*mib || !d.Hidden() {
		t.Error("it reads differently")
	}
	if r := l.check("disk", RepairNone); r.Corruptions != 0 {
		t.Errorf("%v", r.Problems)
	}
}

func TestTheHiddenFlagOfAFixedDisk(t *testing.T) {
	l := newLab(t)
	l.create("disk", CreateOptions{Size: 1 * mib, Fixed: true})
	for _, yes := range []bool{true, false} {
		s, err := Open(l.file("disk"))
		l.must(err)
		l.must(s.(*FixedImage).SetHidden(yes))
		b := l.mem.Crash(0)
		if d := (&lab{t, b}).parsed("disk"); d.Hidden() != yes || d.Size() != 1*mib {
			t.Errorf("hidden: %v, want %v", d.Hidden(), yes)
		}
	}
}
