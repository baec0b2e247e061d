package vhd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// A spoiler makes an image hostile: a differencing disk of 8 MiB with two blocks.
type spoiler struct {
	what  string
	says  string // in the refusal
	spoil func(l *lab)
}

func be32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
func be64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// entry changes the table.
func entry(n int64, to uint32) func(l *lab) {
	return func(l *lab) { l.patch("disk", tableStart+4*n, be32(to)) }
}

// field changes the header, footer both footers.
func field(off int, b []byte) func(l *lab) {
	return func(l *lab) { l.reheaded("disk", func(h []byte) { copy(h[off:], b) }) }
}

func footerField(off int, b []byte) func(l *lab) {
	return func(l *lab) { l.refooted("disk", func(f []byte) { copy(f[off:], b) }) }
}

// name puts another name into a locator.
func name(k int, b []byte) func(l *lab) {
	return func(l *lab) {
		var at int64
		l.reheaded("disk", func(h []byte) {
			e := h[offLocators+k*locatorLen:]
			at = int64(binary.BigEndian.Uint64(e[offLocatorData:]))
			binary.BigEndian.PutUint32(e[offLocatorLength:], uint32(len(b)))
		})
		l.patch("disk", at, b)
	}
}

func spoilers() []spoiler {
	all := []spoiler{
		{"block size 0", "power of two", field(offBlockSize, be32(0))},
		{"odd block size", "power of two", field(offBlockSize, be32(2<<20+1))},
		{"a block size of 3 sectors", "power of two", field(offBlockSize, be32(1536))},
		{"blocks of 2 GiB", "power of two", field(offBlockSize, be32(1<<31))},
		{"blocks of 512 bytes", "blocks", field(offBlockSize, be32(512))},
		{"no table entries", "blocks", field(offMaxEntries, be32(0))},
		{"as many entries as can be", "more than", field(offMaxEntries, be32(math.MaxUint32))},
		{"8 million entries", "beyond the end", field(offMaxEntries, be32(8<<20))},
		{"a table beyond the file", "beyond the end", field(offTable, be64(1<<40))},
		{"a table at 2^63", "no place", field(offTable, be64(1<<63))},
		{"a table at almost 2^63", "beyond the end", field(offTable, be64(math.MaxInt64&^511))},
		{"a table over the header", "overlaps", field(offTable, be64(1024))},
		{"a table at 0", "no place", field(offTable, be64(0))},
		{"a header beyond the file", "beyond the end", footerField(offDataOffset, be64(1<<50))},
		{"a header at almost 2^63", "beyond the end", footerField(offDataOffset, be64(math.MaxInt64&^511))},
		{"a header at 2^63", "no place", footerField(offDataOffset, be64(1<<63))},
		{"a size of almost 2^63", "2040", footerField(offCurrentSize, be64(math.MaxInt64&^511))},
		{"a size of 2^63", "2040", footerField(offCurrentSize, be64(1<<63))},
		{"a size of 2041 GiB", "2040", footerField(offCurrentSize, be64(2041<<30))},
		{"an odd size", "512", footerField(offCurrentSize, be64(8<<20+1))},
		{"a larger disk than table", "blocks", footerField(offCurrentSize, be64(2040<<30))},
		{"a fixed disk of another size", "smaller", footerField(offType, append(be32(2), make([]byte, 0)...))},
		{"a block beyond the file", "beyond the end", entry(3, 1<<30)},
		{"a block at 0", "beginning", entry(3, 0)},
		{"a block over the header", "overlaps", entry(3, 2)},
		{"a block over the table", "overlaps", entry(3, 3)},
		{"a block over a locator", "overlaps", entry(3, 8)},
		{"a block over the footer", "beyond the end", func(l *lab) { b := l.bytes("disk"); entry(3, uint32(len(b)/512)-4096)(l) }},
		{"a locator beyond the file", "not within", field(offLocators+offLocatorData, be64(1<<62))},
		{"a locator at 2^63", "not within", field(offLocators+offLocatorData, be64(1<<63))},
		{"a locator of 4 GiB", "not within", field(offLocators+offLocatorLength, be32(math.MaxUint32))},
		{"a locator without length", "no length", field(offLocators+offLocatorLength, be32(0))},
		{"a locator with NUL", "NUL", name(0, []byte("file://./a\x00b"))},
		{"a locator with UTF-16 NUL", "NUL", name(2, utf16LE(".\\a\x00b"))},
		{"a locator of another host", "another host", name(0, []byte("file://server/share/x.vhd"))},
		{"a web server", "not a file URL", name(0, []byte("http://server/x.vhd"))},
		{"a UNC path", "not a relative path", name(2, utf16LE(`\\server\share\x.vhd`))},
		{"a drive", "not a relative path", name(2, utf16LE(`C:\x.vhd`))},
		{"half a UTF-16 unit", "odd", name(2, []byte(".\x00\\"))},
		{"a lone surrogate", "not UTF-16", name(2, []byte{0, 0xD8, 'x', 0})},
		{"bad UTF-8", "not UTF-8", name(0, []byte("file://./\xff"))},
		{"locators that disagree", "another one", name(0, []byte("file://./x.vhd"))},
		{"a directory", "no file", func(l *lab) {
			name(0, []byte("file://./.."))(l)
		}},
	}
	all = append(all, spoiler{"overlapping blocks", "overlaps block", func(l *lab) {
		b := l.bytes("disk")
		entry(3, binary.BigEndian.Uint32(b[tableStart:])+8)(l)
	}}, spoiler{"the same block twice", "overlaps block", func(l *lab) {
		b := l.bytes("disk")
		entry(3, binary.BigEndian.Uint32(b[tableStart:]))(l)
	}})
	return all
}

// hostileDisk is the image that spoilers spoil.
func hostileDisk(t testing.TB) *lab {
	l := newLab(t)
	l.create("disk", CreateOptions{Size: 8 * mib, Backing: "base.vhd", BackingFormat: "vhd", ParentID: UUID{1}.String()})
	l.put("disk", 0, 512, 1)
	l.put("disk", 4*mib, 2*mib, 2)
	return l
}

func TestHostileImagesAreRefusedAndLeftAlone(t *testing.T) {
	for _, s := range spoilers() {
		t.Run(s.what, func(t *testing.T) {
			l := hostileDisk(t)
			s.spoil(l)
			before := l.bytes("disk")
			cheap(t, func() {
				_, err := Open(l.file("disk"))
				if err == nil || !strings.Contains(err.Error(), s.says) {
					t.Errorf("%v does not say %q", err, s.says)
				}
				wantKnownError(t, err)
				r, err := Check(l.file("disk"), RepairAll)
				if err == nil && r.Damage == 0 {
					t.Errorf("check finds nothing: %v", r.Problems)
				}
			})
			if !bytes.Equal(l.bytes("disk"), before) {
				t.Error("the file was changed")
			}
		})
	}
}

// cheap wants little time and memory.
func cheap(t *testing.T, do func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := processorTime(t)
	do()
	took := processorTime(t) - start
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 256<<20 || took > 5*time.Second {
		t.Errorf("%d bytes and %v", n, took)
	}
}

// processorTime is what this process has used: on a machine that is busy, time alone tells nothing.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A small file claims the largest disk: all entries lead to the one block.
func TestATableThatClaimsTooMuchIsRefusedCheaply(t *testing.T) {
	l := newLab(t)
	l.create("disk", CreateOptions{Size: maxSize})
	l.put("disk", 0, 512, 1)
	first := l.bytes("disk")[tableStart:][:4]
	l.patch("disk", tableStart, bytes.Repeat(first, maxSize/defaultBlockSize))
	cheap(t, func() {
		var malformed *FormatError
		if _, err := Open(l.file("disk")); !errors.As(err, &malformed) || !strings.Contains(err.Error(), "overlaps") {
			t.Errorf("%v", err)
		}
		if r := l.check("disk", RepairNone); r.Damage != maxSize/defaultBlockSize-1 || len(r.Problems) != maxProblems {
			t.Errorf("%d problems, %d told", r.Damage, len(r.Problems))
		}
	})
}

func TestTheLargestDiskCanBeWritten(t *testing.T) {
	l := newLab(t)
	l.create("disk", CreateOptions{Size: maxSize})
	cheap(t, func() { l.put("disk", maxSize-512, 512, 1) })
	if x := l.parsedExtent("disk", maxSize-512); x.Kind != chain.Data {
		t.Errorf("%+v", x)
	}
	f, err := l.mem.Create(l.path("more"), 0o600)
	l.must(err)
	var unsupported *UnsupportedError
	if err := Create(f, CreateOptions{Size: maxSize + 512}); !errors.As(err, &unsupported) {
		t.Errorf("%v", err)
	}
	i := l.open("disk")
	l.must(i.Prepare())
	if err := i.Resize(maxSize+512, 0); !errors.As(err, &unsupported) {
		t.Errorf("%v", err)
	}
}

func (l *lab) parsedExtent(name string, off int64) chain.Extent {
	l.t.Helper()
	i := l.open(name)
	x, err := i.Extent(off, i.size)
	l.must(err)
	return x
}
