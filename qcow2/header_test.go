package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// samples are the committed images by name.
func samples(t testing.TB) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.qcow2")
	if err != nil || len(paths) < 10 {
		t.Fatalf("testdata: %d images, %v", len(paths), err)
	}
	all := map[string][]byte{}
	for _, p := range paths {
		all[filepath.Base(p)] = load(t, p)
	}
	return all
}

func read(image []byte) (Header, error) {
	return ReadHeader(bytes.NewReader(image), int64(len(image)))
}

func TestSamplesAreReadAndAreAsTheirNames(t *testing.T) {
	blank := []string{"aes", "bitmap", "extl2", "lazy", "overlay-v2", "v2", "v3", "zstd"}
	for name, image := range samples(t) {
		h, err := read(image)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		name = strings.TrimSuffix(name, ".qcow2")
		got, err := Blank(bytes.NewReader(image), h, int64(len(image)))
		if err != nil || got != slices.Contains(blank, name) {
			t.Errorf("%s: Blank = %v, %v", name, got, err)
		}
		if yes, err := Probe(bytes.NewReader(image)); !yes || err != nil {
			t.Errorf("%s: no magic", name)
		}
	}
}

func put32(image []byte, off int, v uint32) { binary.BigEndian.PutUint32(image[off:], v) }
func put64(image []byte, off int, v uint64) { binary.BigEndian.PutUint64(image[off:], v) }

// Each case breaks one field of a good image; offset is where the error must
// point, -1 for an *UnsupportedError.
func TestBrokenFieldsAreRefused(t *testing.T) {
	for _, c := range []struct {
		name, image string
		change      func(b []byte)
		offset      int64
	}{
		{"version 1", "v3", func(b []byte) { put32(b, 4, 1) }, -1},
		{"version 4", "v3", func(b []byte) { put32(b, 4, 4) }, -1},
		{"cluster bits 8", "v3", func(b []byte) { put32(b, 20, 8) }, 20},
		{"cluster bits 22", "v3", func(b []byte) { put32(b, 20, 22) }, 20},
		{"cluster bits 2^32-1", "v3", func(b []byte) { put32(b, 20, math.MaxUint32) }, 20},
		{"small clusters with extended L2", "v3", func(b []byte) { put64(b, 72, 16) }, 20},
		{"size 2^63", "v3", func(b []byte) { put64(b, 24, 1<<63) }, 24},
		{"size 2^63-512", "v3", func(b []byte) { put64(b, 24, 1<<63-512) }, 36},
		{"a cluster beyond L1", "v3", func(b []byte) { put64(b, 24, 64<<10+512) }, 36},
		{"a cluster beyond L1, extended", "extl2", func(b []byte) { put64(b, 24, 16<<20+512) }, 36},
		{"encryption 3", "v3", func(b []byte) { put32(b, 32, 3) }, -1},
		{"LUKS without its header", "v3", func(b []byte) { put32(b, 32, 2) }, 32},
		{"L1 of 32 MiB + 8", "v3", func(b []byte) { put32(b, 36, 4<<20+1) }, 40},
		{"L1 of 2^32-1", "v3", func(b []byte) { put32(b, 36, math.MaxUint32) }, 40},
		{"L1 beyond the file", "v3", func(b []byte) { put32(b, 36, 4<<20) }, 40},
		{"L1 unaligned", "v3", func(b []byte) { put64(b, 40, 513) }, 40},
		{"L1 in the header", "v3", func(b []byte) { put64(b, 40, 0) }, 40},
		{"L1 at 2^63", "v3", func(b []byte) { put64(b, 40, 1<<63) }, 40},
		{"L1 at 2^63-512", "v3", func(b []byte) { put64(b, 40, 1<<63-512) }, 40},
		{"no refcount table", "v3", func(b []byte) { put32(b, 56, 0) }, 56},
		{"refcount table of 8 MiB + a cluster", "v3", func(b []byte) { put32(b, 56, 16<<10+1) }, 48},
		{"refcount table of 2^32-1", "v3", func(b []byte) { put32(b, 56, math.MaxUint32) }, 48},
		{"refcount table beyond the file", "v3", func(b []byte) { put64(b, 48, 1<<40) }, 48},
		{"refcount table unaligned", "v3", func(b []byte) { put64(b, 48, 520) }, 48},
		{"refcount table in the header", "v3", func(b []byte) { put64(b, 48, 0) }, 48},
		{"65537 snapshots", "snapshot", func(b []byte) { put32(b, 60, 65537) }, 64},
		{"snapshots beyond the file", "snapshot", func(b []byte) { put32(b, 60, 65536) }, 64},
		{"snapshots unaligned", "v3", func(b []byte) { put64(b, 64, 8) }, 64},
		{"snapshots in the header", "snapshot", func(b []byte) { put64(b, 64, 0) }, 64},
		{"unknown incompatible bit", "v3", func(b []byte) { put64(b, 72, 1<<5) }, -1},
		{"highest incompatible bit", "v3", func(b []byte) { put64(b, 72, 1<<63) }, -1},
		{"bitmaps bit without bitmaps", "v3", func(b []byte) { put64(b, 88, 1) }, 88},
		{"raw bit without data file", "v3", func(b []byte) { put64(b, 88, 2) }, 88},
		{"raw data file and backing file", "data", func(b []byte) { put64(b, 8, 400) }, 88},
		{"refcount order 7", "v3", func(b []byte) { put32(b, 96, 7) }, 96},
		{"header length 96", "v3", func(b []byte) { put32(b, 100, 96) }, 100},
		{"header length 108", "v3", func(b []byte) { put32(b, 100, 108) }, 100},
		{"header length beyond the cluster", "v3", func(b []byte) { put32(b, 100, 520) }, 100},
		{"compression without its bit", "v3", func(b []byte) { b[104] = 1 }, 104},
		{"compression bit alone", "v3", func(b []byte) { put64(b, 72, 8) }, 104},
		{"compression 2", "zstd", func(b []byte) { b[104] = 2 }, -1},
		{"backing name beyond cluster 0", "overlay", func(b []byte) { put64(b, 8, 513) }, 8},
		{"backing name at 2^63", "overlay", func(b []byte) { put64(b, 8, 1<<63) }, 8},
		{"backing name in the header", "overlay", func(b []byte) { put64(b, 8, 104) }, 8},
		{"backing name leaves cluster 0", "overlay", func(b []byte) { put64(b, 8, 512-7) }, 16},
		{"backing name of 1024", "zstd", func(b []byte) { put64(b, 8, 512); put32(b, 16, 1024) }, 16},
		{"backing name of 2^32-1", "overlay", func(b []byte) { put32(b, 16, math.MaxUint32) }, 16},
		{"NUL in backing name", "overlay", func(b []byte) { b[nameOffset(b)+2] = 0 }, 138},
		{"extension beyond cluster 0", "v3", func(b []byte) { put32(b, 112, 99); put32(b, 116, 393) }, 116},
		{"extension of 2^32-1", "v3", func(b []byte) { put32(b, 112, 99); put32(b, 116, math.MaxUint32) }, 116},
		{"extension reaches into backing name", "overlay", func(b []byte) { put32(b, 116, 20) }, 116},
		{"half an extension", "overlay", func(b []byte) { put64(b, 8, 132); put32(b, 128, 0); put32(b, 116, 1) }, 128},
		{"backing format of 16", "v3", func(b []byte) { put32(b, 112, ExtensionBackingFormat); put32(b, 116, 16) }, 120},
		{"NUL in backing format", "overlay", func(b []byte) { b[121] = 0 }, 121},
		{"two backing formats", "v3", twice(ExtensionBackingFormat), 120},
		{"two data file names", "v3", twice(ExtensionDataFile), 120},
		{"endless extensions", "extl2", endless, 112 + 256*8},
		{"bitmaps of 16 bytes", "bitmap", func(b []byte) { put32(b, 116, 16) }, 120},
		{"bitmaps: reserved", "bitmap", func(b []byte) { put32(b, 124, 1) }, 124},
		{"0 bitmaps", "bitmap", func(b []byte) { put32(b, 120, 0) }, 120},
		{"65536 bitmaps", "bitmap", func(b []byte) { put32(b, 120, 65536) }, 120},
		{"bitmap directory too small", "bitmap", func(b []byte) { put64(b, 128, 23) }, 128},
		{"bitmap directory of 2^63", "bitmap", func(b []byte) { put64(b, 128, 1<<63) }, 128},
		{"bitmap directory too large", "bitmap", func(b []byte) { put64(b, 128, maxBitmapDirectory+1) }, 120},
		{"bitmap directory beyond the file", "bitmap", func(b []byte) { put64(b, 128, 1<<20) }, 120},
		{"bitmap directory unaligned", "bitmap", func(b []byte) { put64(b, 136, 520) }, 120},
		{"encryption header without LUKS", "v3", func(b []byte) { put32(b, 112, ExtensionCrypt) }, 120},
		{"LUKS header of 15", "v3", luks(15, 512, 592), 120},
		{"LUKS header unaligned", "v3", luks(16, 513, 592), 120},
		{"LUKS header beyond the file", "v3", luks(16, 512, 1<<20), 120},
		{"LUKS header of 2^63", "v3", luks(16, 512, 1<<63), 128},
		{"LUKS header too large", "v3", luks(16, 512, 64<<20+1), 120},
		{"LUKS header too small", "v3", luks(16, 512, 591), 128},
	} {
		t.Run(c.name, func(t *testing.T) {
			image := load(t, "testdata", c.image+".qcow2")
			c.change(image)
			h, err := read(image)
			wantRefusal(t, h, err, c.offset)
		})
	}
}

// Here the limits alone refuse, in a file that has room for everything.
func TestLimitsInEndlessFiles(t *testing.T) {
	for _, c := range []struct {
		name, image, reason string
		change              func(b []byte)
	}{
		{"largest L1", "v3", "", func(b []byte) { put32(b, 36, 4<<20) }},
		{"L1", "v3", "limit of 4194304", func(b []byte) { put32(b, 36, 4<<20+1) }},
		{"L1 at 2^63", "v3", "2^63", func(b []byte) { put64(b, 40, 1<<63) }},
		{"largest refcount table", "v3", "", func(b []byte) { put32(b, 56, 16<<10) }},
		{"refcount table", "v3", "limit of 16384", func(b []byte) { put32(b, 56, 16<<10+1) }},
		{"most snapshots", "snapshot", "", func(b []byte) { put32(b, 60, 65536) }},
		{"snapshots", "snapshot", "limit of 65536", func(b []byte) { put32(b, 60, 65537) }},
		{"largest bitmap directory", "bitmap", "", func(b []byte) { put64(b, 128, maxBitmapDirectory) }},
		{"bitmap directory", "bitmap", "limit", func(b []byte) { put64(b, 128, maxBitmapDirectory+1) }},
		{"largest LUKS header", "v3", "", luks(16, 512, 64<<20)},
		{"LUKS header", "v3", "limit", luks(16, 512, 64<<20+1)},
		{"LUKS header of another method", "v3", "without LUKS", func(b []byte) { luks(16, 512, 592)(b); put32(b, 32, CryptAES) }},
		{"longest backing format", "v3", "", named(ExtensionBackingFormat, 15)},
		{"backing format", "v3", "longer than 15", named(ExtensionBackingFormat, 16)},
		{"longest data file name", "extl2", "", named(ExtensionDataFile, 4095)},
		{"data file name", "extl2", "longer than 4095", named(ExtensionDataFile, 4096)},
	} {
		t.Run(c.name, func(t *testing.T) {
			image := load(t, "testdata", c.image+".qcow2")
			c.change(image)
			_, err := ReadHeader(endlessFile(image), 1<<40)
			if c.reason == "" && err == nil {
				return
			}
			var malformed *FormatError
			if c.reason == "" || !errors.As(err, &malformed) || !strings.Contains(malformed.Reason, c.reason) {
				t.Errorf("got %v, want %q", err, c.reason)
			}
		})
	}
}

// endlessFile goes on with zeros.
type endlessFile []byte

func (f endlessFile) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	copy(p, f[min(off, int64(len(f))):])
	return len(p), nil
}

// named makes an extension of n letters the only one.
func named(typ uint32, n int) func([]byte) {
	return func(b []byte) {
		put32(b, 112, typ)
		put32(b, 116, uint32(n))
		copy(b[120:], strings.Repeat("q", n)+strings.Repeat("\x00", 16))
	}
}

func nameOffset(b []byte) int { return int(binary.BigEndian.Uint64(b[8:])) }

func twice(typ uint32) func([]byte) {
	return func(b []byte) { put32(b, 112, typ); put32(b, 120, typ) }
}

// endless fills cluster 0 with empty extensions of an unknown type.
func endless(b []byte) {
	for off := 112; off < 16<<10; off += 8 {
		put32(b, off, 99)
		put32(b, off+4, 0)
	}
}

func luks(extLen uint32, off, length uint64) func([]byte) {
	return func(b []byte) {
		put32(b, 32, CryptLUKS)
		put32(b, 112, ExtensionCrypt)
		put32(b, 116, extLen)
		put64(b, 120, off)
		put64(b, 128, length)
	}
}

func wantRefusal(t *testing.T, h Header, err error, offset int64) {
	t.Helper()
	var malformed *FormatError
	var unsupported *UnsupportedError
	switch {
	case offset < 0 && errors.As(err, &unsupported):
	case offset >= 0 && errors.As(err, &malformed) && malformed.Offset == offset:
	default:
		t.Errorf("got %+v, %v; want an error at %d", h, err, offset)
	}
}

func TestGoodLUKSHeaderIsRead(t *testing.T) {
	image := load(t, "testdata", "v3.qcow2")
	luks(16, 512, 592)(image)
	if h, err := read(image); err != nil || h.CryptHeaderOffset != 512 || h.CryptHeaderLength != 592 {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestUnknownThingsThatMayBeIgnored(t *testing.T) {
	image := load(t, "testdata", "v3.qcow2")
	put64(image, offCompatible, 1<<40)
	put64(image, offAutoclear, 1<<40)
	put32(image, offHeaderLength, 128) // fields that came after this was written
	put64(image, 112, 0xffff)
	put32(image, 128, 0x76617465) // twice an unknown extension
	put32(image, 132, 3)
	put32(image, 144, 0x76617465)
	h, err := read(image)
	if err != nil {
		t.Fatal(err)
	}
	want := []Extension{{0x76617465, 136, 3}, {0x76617465, 152, 0}}
	if !slices.Equal(h.Extensions, want) || h.Autoclear != 1<<40 || h.Compatible != 1<<40 {
		t.Errorf("%+v", h)
	}
}

// QEMU takes a backing name of length 0 for none.
func TestEmptyBackingNameIsNone(t *testing.T) {
	image := load(t, "testdata", "overlay.qcow2")
	put32(image, offBackingLength, 0)
	if h, err := read(image); err != nil || h.BackingFile != "" {
		t.Errorf("%+v, %v", h, err)
	}
}

// The length is undefined without a backing file.
func TestBackingLengthAloneIsIgnored(t *testing.T) {
	image := load(t, "testdata", "v3.qcow2")
	put32(image, offBackingLength, math.MaxUint32)
	if h, err := read(image); err != nil || h.BackingFile != "" {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestDecodeHeaderWantsTheMagic(t *testing.T) {
	if _, err := decodeHeader(new([headerLen]byte)); !errors.Is(err, ErrNotQcow2) {
		t.Errorf("got %v", err)
	}
}

func TestOtherFilesAreNotQcow2(t *testing.T) {
	for _, image := range [][]byte{nil, []byte("Q"), []byte("QFI"), make([]byte, 4096), []byte("conectix"),
		append([]byte("QFI\xfa"), make([]byte, 512)...)} {
		if _, err := read(image); !errors.Is(err, ErrNotQcow2) {
			t.Errorf("%.8q: %v", image, err)
		}
		if yes, err := Probe(bytes.NewReader(image)); yes || err != nil {
			t.Errorf("%.8q: Probe", image)
		}
	}
}

// A cut is told by the size. A size that lies is told where a read meets the end.
func TestTruncatedImagesAreRefused(t *testing.T) {
	for name, image := range samples(t) {
		for n := range 512 {
			wantCut(t, name, n, second(read(image[:n])))
			wantCut(t, name, n, second(ReadHeader(bytes.NewReader(image), int64(n))))
			if err := second(ReadHeader(bytes.NewReader(image[:n]), int64(len(image)))); err != nil || n < headerLen {
				wantCut(t, name, n, err)
			}
		}
	}
}

func second[T any](_ T, err error) error { return err }

func wantCut(t *testing.T, name string, n int, err error) {
	t.Helper()
	var malformed *FormatError
	if n < 4 && errors.Is(err, ErrNotQcow2) || n >= 4 && errors.As(err, &malformed) {
		return
	}
	t.Errorf("%s cut to %d bytes: %v", name, n, err)
}

// The last byte of the L1 table is the last of these images.
func TestCutL1TableIsNotBlank(t *testing.T) {
	image := load(t, "testdata", "v3.qcow2")
	h := mustRead(t, image)
	n := int64(len(image)) - 1
	for _, c := range []struct {
		r    io.ReaderAt
		size int64
	}{
		{bytes.NewReader(image[:n]), n},
		{bytes.NewReader(image[:n]), n + 1},
	} {
		blank, err := Blank(c.r, h, c.size)
		var malformed *FormatError
		if blank || !errors.As(err, &malformed) {
			t.Errorf("Blank = %v, %v", blank, err)
		}
	}
}

func TestBlankSeesEntriesInAllPieces(t *testing.T) {
	image := make([]byte, 4<<20) // an L1 table of several pieces
	copy(image, load(t, "testdata", "v3.qcow2"))
	const entries = 3*blankPiece/l1EntryLen + 5
	put32(image, offL1Size, entries)
	put64(image, offL1Table, 1<<20)
	h := mustRead(t, image)
	for i := 0; i < entries; i += 101 {
		at := 1<<20 + i*l1EntryLen + 7
		image[at] = 1
		if blank, err := Blank(bytes.NewReader(image), h, int64(len(image))); blank || err != nil {
			t.Fatalf("entry %d: Blank = %v, %v", i, blank, err)
		}
		image[at] = 0
	}
	image[1<<20+entries*l1EntryLen] = 1 // just beyond
	if blank, err := Blank(bytes.NewReader(image), h, int64(len(image))); !blank || err != nil {
		t.Fatalf("Blank = %v, %v", blank, err)
	}
}

func TestBlankRefusesAHeaderThatNobodyChecked(t *testing.T) {
	if blank, err := Blank(bytes.NewReader(nil), Header{}, 0); blank || err == nil {
		t.Errorf("Blank = %v, %v", blank, err)
	}
}

var errDisk = errors.New("disk on fire")

func TestReadErrorsAreNeitherMalformedNorNotQcow2(t *testing.T) {
	image := load(t, "testdata", "overlay.qcow2")
	for from := int64(0); from < 144; from += 8 {
		_, err := ReadHeader(failing{bytes.NewReader(image), from}, int64(len(image)))
		if !errors.Is(err, errDisk) {
			t.Errorf("disk broken from %d: %v", from, err)
		}
	}
}

// failing fails reads that reach beyond from.
type failing struct {
	io.ReaderAt
	from int64
}

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.from {
		return 0, errDisk
	}
	return f.ReaderAt.ReadAt(p, off)
}

// An odd size is rounded up, and stays in the file as it is until the disk gets another one.
func TestAnOddSizeIsKept(t *testing.T) {
	image := slices.Clone(samples(t)["v3.qcow2"])
	put64(image, offSize, 65535)
	h := mustRead(t, image)
	var b [headerLen]byte
	copy(b[:], image)
	h.encode(&b)
	if h.Size != 65536 || binary.BigEndian.Uint64(b[offSize:]) != 65535 {
		t.Errorf("%+v, stored %d", h, binary.BigEndian.Uint64(b[offSize:]))
	}
	h.Size = 1024
	if h.encode(&b); binary.BigEndian.Uint64(b[offSize:]) != 1024 {
		t.Error("the new size is not stored")
	}
	put64(image, offSize, math.MaxInt64)
	if _, err := read(image); err == nil {
		t.Error("2^63-1 bytes")
	}
}
