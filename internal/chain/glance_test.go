package chain_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

func glanceOf(t *testing.T, path string) (chain.Glance, error) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	return chain.GlanceAt(f)
}

func TestGlanceReadsWhatQEMUWrites(t *testing.T) {
	dir := t.TempDir()
	run(t, dir, "qemu-img", "create", "-q", "-f", "raw", "base.img", "1M")
	for args, want := range map[string]chain.Glance{
		"-f qcow2 -b base.img -F raw":                              {Format: "qcow2", Backing: "base.img", BackingFormat: "raw"},
		"-f qcow2 -o compat=0.10 -b base.img -F raw":               {Format: "qcow2", Backing: "base.img", BackingFormat: "raw"},
		"-f qcow2 -o cluster_size=512 -b base.img -F raw":          {Format: "qcow2", Backing: "base.img", BackingFormat: "raw"},
		"-f qcow2 -o cluster_size=2M,extended_l2=on 1M":            {Format: "qcow2"},
		"-f qcow2 -u -b json:{\"file.filename\":\"x\"} -F vmdk 1M": {Format: "qcow2", Backing: `json:{"file.filename":"x"}`, BackingFormat: "vmdk"},
		"-f qcow -b base.img -F raw":                               {Format: "qcow", Backing: "base.img"},
		"-f qcow 1M":                                               {Format: "qcow"},
		"-f qed -b base.img -F raw":                                {Format: "qed", Backing: "base.img", BackingFormat: "raw"},
		"-f qed 1M":                                                {Format: "qed"},
		"-f vpc 1M":                                                {Format: "vhd"},
		"-f vmdk 1M":                                               {Format: "vmdk"},
		"-f vmdk -o subformat=monolithicFlat 1M":                   {Format: "vmdk"},
		"-f vdi 1M":                                                {Format: "vdi"},
		"-f vhdx 1M":                                               {Format: "vhdx"},
		"-f parallels 1M":                                          {Format: "parallels"},
		"-f raw 1M":                                                {},
	} {
		fields := strings.Fields(args)
		name, size := "image", []string(nil)
		if last := len(fields) - 1; fields[last] == "1M" {
			fields, size = fields[:last], []string{"1M"}
		}
		run(t, dir, "qemu-img", append(append(append([]string{"create", "-q"}, fields...), name), size...)...)
		if got, err := glanceOf(t, filepath.Join(dir, name)); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", args, got, err, want)
		}
	}
}

// Parents of VMDK, VDI, VHDX and Parallels images are of their own format; XenServer
// has VHDs on raw disks.
func TestWhatAnImageCanBuildOn(t *testing.T) {
	formats := []string{"qcow2", "raw", "vhd", "vmdk"}
	for format, want := range map[string]string{
		"qcow2": "qcow2 raw vhd vmdk", "qcow": "qcow2 raw vhd vmdk", "qed": "qcow2 raw vhd vmdk",
		"vhd": "raw vhd", "vmdk": "vmdk", "vdi": "", "vhdx": "", "parallels": "", "": "",
	} {
		var can []string
		for _, f := range formats {
			if (chain.Glance{Format: format}).CanBuildOn(f) {
				can = append(can, f)
			}
		}
		if got := strings.Join(can, " "); got != want {
			t.Errorf("%q: %q, want %q", format, got, want)
		}
	}
}

// A blank is a header of which tests fill in some fields.
type blank []byte

func newQcow(version uint32, size int) blank {
	b := make(blank, size)
	copy(b, "QFI\xfb")
	return b.be32(4, version).be32(20, 16).be32(100, 104)
}

func (b blank) be32(off int, v uint32) blank {
	if off+4 <= len(b) {
		binary.BigEndian.PutUint32(b[off:], v)
	}
	return b
}

func (b blank) le32(off int, v uint32) blank {
	binary.LittleEndian.PutUint32(b[off:], v)
	return b
}

// named puts the name at off, as far as the file goes.
func (b blank) named(off uint32, name string) blank {
	b.be32(12, off).be32(16, uint32(len(name)))
	if int(off) < len(b) {
		copy(b[off:], name)
	}
	return b
}

func TestGlanceOfHeadersThatAreCutOffOrDamaged(t *testing.T) {
	none, name, doubt := "none", "name", "doubt"
	qed := append(blank("QED\x00"), make([]byte, 200)...)
	for what, c := range map[string]struct {
		file blank
		want string
	}{
		"four bytes":                        {newQcow(3, 200)[:4], none},
		"eight bytes":                       {newQcow(3, 8), none},
		"60 bytes":                          {newQcow(3, 60).named(40, "name"), none},
		"v2, 71 bytes":                      {newQcow(2, 71).named(200, "name"), none},
		"v3, 103 bytes":                     {newQcow(3, 103).named(200, "name"), none},
		"shorter than its header":           {newQcow(3, 106).be32(100, 112).named(112, "name"), none},
		"shorter, but the name is there":    {newQcow(3, 110).be32(100, 112).named(104, "name"), name},
		"whole header, no name":             {newQcow(3, 104), none},
		"name of length 0":                  {newQcow(3, 104).be32(12, 4096), none},
		"name beyond the end":               {newQcow(3, 104).named(4096, "name"), doubt},
		"v2, name beyond the end":           {newQcow(2, 104).named(4096, "name"), doubt},
		"cut off in the name":               {newQcow(3, 131).named(128, "name"), doubt},
		"cut off behind the name":           {newQcow(3, 132).named(128, "name"), name},
		"name beyond what is read at first": {newQcow(3, 70000).named(65000, "name"), name},
		"name that ends with NUL":           {newQcow(3, 200).named(128, "name\x00more"), name},
		"name of 4 GiB":                     {newQcow(3, 200).be32(12, 128).be32(16, 1<<32-1), doubt},
		"name at 2^63":                      {newQcow(3, 200).be32(8, 1<<31).be32(16, 4), doubt},
		"unknown incompatible features":     {newQcow(3, 200).be32(72, 1<<31).named(128, "name"), name},
		"cluster size of 4 GiB":             {newQcow(3, 200).be32(20, 32).named(128, "name"), name},
		"tables elsewhere":                  {newQcow(3, 200).be32(40, 1<<30).be32(48, 1<<31).named(128, "name"), name},
		"header length of 4 GiB":            {newQcow(3, 200).be32(100, 1<<32-1).named(128, "name"), name},
		"version 0":                         {newQcow(0, 200), doubt},
		"version 4":                         {newQcow(4, 200).named(128, "name"), doubt},
		"version 1, 47 bytes":               {newQcow(1, 47).named(40, "name"), none},
		"version 1, no name":                {newQcow(1, 48), none},
		"version 1, name":                   {newQcow(1, 52).named(48, "name"), name},
		"version 1, name cut off":           {newQcow(1, 51).named(48, "name"), doubt},
		"QED, 63 bytes":                     {bytes.Clone(qed[:63]), none},
		"QED without backing file":          {blank(bytes.Clone(qed)).le32(56, 100).le32(60, 4), none},
		"QED, name beyond the end":          {blank(bytes.Clone(qed)).le32(16, 1).le32(56, 4096).le32(60, 4), doubt},
		"magic of VHD, then nothing":        {blank("conectix"), none},
		"no bytes":                          {nil, none},
	} {
		g, err := chain.GlanceAt(bytes.NewReader(c.file))
		got := none
		switch {
		case err != nil:
			got = doubt
		case g.Backing != "":
			got = g.Backing
		}
		if got != c.want {
			t.Errorf("%s: %+v, %v; want %s", what, g, err, c.want)
		}
	}
}

// failing fails to read from off on.
type failing struct {
	io.ReaderAt
	off int64
}

var errMedium = errors.New("the medium is damaged")

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) <= f.off {
		return f.ReaderAt.ReadAt(p, off)
	}
	n, _ := f.ReaderAt.ReadAt(p[:max(0, f.off-off)], off)
	return n, errMedium
}

func TestWhatCannotBeReadIsADoubt(t *testing.T) {
	image := newQcow(3, 70000).named(65000, "name")
	for _, off := range []int64{0, 50, 4000, 65002} {
		if g, err := chain.GlanceAt(failing{bytes.NewReader(image), off}); !errors.Is(err, errMedium) {
			t.Errorf("from %d on: %+v, %v", off, g, err)
		}
	}
}
