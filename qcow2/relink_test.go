package qcow2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A writesNoted is a file that notes which bytes are written to.
type writesNoted struct {
	vfs.File
	writes []string
}

func (f *writesNoted) WriteAt(b []byte, off int64) (int, error) {
	f.writes = append(f.writes, fmt.Sprintf("%d+%d", off, len(b)))
	return f.File.WriteAt(b, off)
}

// withNameTable gives an overlay the header that QEMU of some versions made without a backing
// format: its length, the table of that many feature names, an end mark, and the name of the
// backing file right behind, on raw images of QEMU 5.2 and 6.0 at byte 512.
func withNameTable(t *testing.T, path string, headerLength, names int) {
	t.Helper()
	b := load(t, path)
	be := binary.BigEndian
	old := int(be.Uint32(b[offHeaderLength:]))
	if be.Uint32(b[old:]) != ExtensionFeatureNames {
		t.Fatalf("the first extension is %#x", be.Uint32(b[old:]))
	}
	table := bytes.Clone(b[old : old+extHeaderLen+48*names])
	be.PutUint32(table[offExtLength:], uint32(48*names))
	clear(b[headerLength:2000])
	be.PutUint32(b[offHeaderLength:], uint32(headerLength))
	at := headerLength + copy(b[headerLength:], table) + extHeaderLen
	copy(b[at:], "base.raw")
	be.PutUint64(b[8:], uint64(at))
	be.PutUint32(b[16:], uint32(len("base.raw")))
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Where the table of feature names fills the first sector, it makes room for the format, and
// one write does all of it: no crash is in between.
func TestABackingFormatWhereFeatureNamesFillTheSector(t *testing.T) {
	for _, c := range []struct {
		headerLength, names int
		drops               bool
	}{{104, 5, false}, {104, 6, false}, {112, 7, false}, {112, 8, true}} {
		dir := t.TempDir()
		path := filepath.Join(dir, "top")
		qemuImg(t, dir, "create", "-q", "-f", "raw", "base.raw", "4M")
		create(t, dir, "top", "", "4M")
		qemuIO(t, dir, "top", "write -P 2 2M 64k")
		withNameTable(t, path, c.headerLength, c.names)
		if h := wantAsQEMU(t, dir, "top"); h.BackingFile != "base.raw" || h.BackingFormat != "" {
			t.Fatalf("%+v: %q, %q", c, h.BackingFile, h.BackingFormat)
		}
		before := load(t, path)
		f, err := vfs.OS().Open(path, true)
		if err != nil {
			t.Fatal(err)
		}
		noted := &writesNoted{File: f}
		m, err := Open(noted, nil)
		if err != nil {
			t.Fatal(err)
		}
		noted.writes = nil
		if err := m.SetBacking("base.raw", "raw"); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if c.drops && (len(noted.writes) != 1 || noted.writes[0] != "0+512") {
			t.Errorf("%+v: writes %q, want one of the first sector", c, noted.writes)
		}
		h := wantAsQEMU(t, dir, "top")
		if h.BackingFile != "base.raw" || h.BackingFormat != "raw" {
			t.Errorf("%+v: %q, %q", c, h.BackingFile, h.BackingFormat)
		}
		if kept := bytes.Contains(load(t, path)[:2048], []byte("dirty bit")); kept == c.drops {
			t.Errorf("%+v: the table is there: %t", c, kept)
		}
		if after := load(t, path); !bytes.Equal(before[1<<16:], after[1<<16:]) {
			t.Errorf("%+v: more than the header has changed", c)
		}
		qemuImg(t, dir, "check", "-q", "-f", "qcow2", "top")
		qemuIO(t, dir, "top", "read -P 2 2M 64k", "read -P 0 0 2M")
	}
}
