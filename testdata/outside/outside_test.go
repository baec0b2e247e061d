package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/qcow2"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
	"github.com/virt-rotate/virt-rotate/vhdbridge/xva"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheProgram(t *testing.T) {
	var out bytes.Buffer
	must(t, run(&out))
	for _, line := range []string{"read the base\n", "read the VHD\n", "  1048576   65536 data in layer 1\n", "  40 hours ago: [daily 2026-11-20]\n"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("no %q in\n%s", line, &out)
		}
	}
}

// newVHD makes a VHD with that text at its beginning.
func (d directory) newVHD(t *testing.T, name, text string, o vhd.CreateOptions) {
	t.Helper()
	f := newSectors()
	d[name] = f
	o.Size = size
	must(t, vhd.Create(f, o))
	image, err := vhd.Open(f)
	must(t, err)
	w, err := vhd.NewWriter(image)
	must(t, err)
	_, err = w.WriteAt([]byte(text), 0)
	must(t, errors.Join(err, w.Flush()))
}

// A chain of both formats on a raw disk: what they have in common is of one type.
func TestAChainOfBothFormats(t *testing.T) {
	d := directory{"raw": newSectors()}
	_, err := d["raw"].WriteAt(bytes.Repeat([]byte("raw!"), size/4), 0)
	must(t, err)
	d.newVHD(t, "parent", strings.Repeat("p", 1024), vhd.CreateOptions{UUID: vhd.UUID{1}, Backing: "raw", BackingFormat: "raw"})
	d.newVHD(t, "child", strings.Repeat("c", 512), vhd.CreateOptions{Backing: "parent", BackingFormat: "vhd", ParentID: vhd.UUID{1}.String()})
	w, err := d.newImage("overlay", qcow2.CreateOptions{Size: size, ClusterSize: 512, Backing: "child", BackingFormat: "vhd"})
	must(t, err)
	_, err = w.WriteAt(bytes.Repeat([]byte("o"), 512), 512)
	must(t, errors.Join(err, w.Flush()))
	want := strings.Repeat("c", 512) + strings.Repeat("o", 512) + strings.Repeat("raw!", size/4-256)
	must(t, d.same("overlay", "qcow2", []byte(want)))

	disk, err := d.disk("overlay", "qcow2", "parent")
	must(t, err)
	var kinds []string
	for x, err := range disk.Extents() {
		must(t, err)
		var e vhd.Extent = x.Extent // and not only qcow2.Extent
		kinds = append(kinds, e.Kind.String()+" "+disk.Layers()[x.Layer].Image().Format)
	}
	if got := strings.Join(slices.Compact(kinds), ", "); got != "data vhd, data qcow2, data raw" {
		t.Errorf("extents: %s", got)
	}
	told := int64(0)
	must(t, disk.Commit(context.Background(), 1, func(n int64) { told += n }))
	must(t, disk.Close())
	if told != 1024 {
		t.Errorf("%d bytes were merged", told)
	}
	must(t, d.same("parent", "vhd", []byte(want)))
	res, err := vhd.CheckReader(d["parent"], d["parent"].size)
	if err != nil || res.ProblemCount != 0 {
		t.Errorf("check: %+v, %v", res, err)
	}
}

// Errors are told apart in one way, whatever the format.
func TestKindsOfErrors(t *testing.T) {
	kind := func(err error) string {
		var malformed *qcow2.FormatError
		var unsupported *qcow2.UnsupportedError
		var refused *qcow2.RefusedError
		switch {
		case err == nil:
			return "none"
		case errors.Is(err, qcow2.ErrNotThisFormat):
			return "not this format"
		case errors.As(err, &malformed):
			return "malformed: " + malformed.Format
		case errors.As(err, &unsupported):
			return "unsupported: " + unsupported.Format
		case errors.As(err, &refused):
			return "refused"
		}
		return "other: " + err.Error()
	}
	read := map[string]func(b []byte) error{
		"qcow2": func(b []byte) error { _, err := qcow2.NewReader(bytes.NewReader(b), int64(len(b)), nil); return err },
		"vhd":   func(b []byte) error { _, err := vhd.NewReader(bytes.NewReader(b), int64(len(b))); return err },
		"xva": func(b []byte) error {
			r, err := xva.NewReader(bytes.NewReader(b))
			for err == nil {
				_, err = r.Next()
			}
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return err
		},
	}
	d := directory{}
	must(t, d.importXVA(exportOf(content())))
	d.newVHD(t, "vhd", "text", vhd.CreateOptions{})
	good := map[string][]byte{"qcow2": all(t, d["base"]), "vhd": all(t, d["vhd"]), "xva": exportOf(content())}
	for format, b := range good {
		for what, c := range map[string]struct {
			b    []byte
			want string
		}{
			"good":  {b, "none"},
			"text":  {[]byte("text"), "not this format"},
			"empty": {nil, "not this format"},
			"cut":   {b[:len(b)/2], "malformed: " + format},
		} {
			if got := kind(read[format](c.b)); got != c.want {
				t.Errorf("%s, %s: %s, want %s", format, what, got, c.want)
			}
		}
	}
	newer := bytes.Clone(good["qcow2"])
	newer[7] = 9 // the version
	if got := kind(read["qcow2"](newer)); got != "unsupported: qcow2" {
		t.Error("a version to come:", got)
	}
	_, err := d.disk("base", "qcow2", "")
	must(t, err)
	if _, err := qcow2.OpenDisk(overlayOfNothing(t), nil); kind(err) != "refused" {
		t.Error("a backing file that nobody opens:", err)
	}
	if !errors.Is(qcow2.ErrNotQcow2, vhd.ErrNotThisFormat) || !errors.Is(vhd.ErrNotVHD, xva.ErrNotThisFormat) || !errors.Is(xva.ErrNotXVA, qcow2.ErrNotThisFormat) {
		t.Error("formats differ in what is not this format")
	}
}

func all(t *testing.T, f *sectors) []byte {
	t.Helper()
	b := make([]byte, f.size)
	_, err := f.ReadAt(b, 0)
	must(t, err)
	return b
}

func overlayOfNothing(t *testing.T) qcow2.Source {
	t.Helper()
	f := newSectors()
	must(t, qcow2.Create(f, qcow2.CreateOptions{Size: size, Backing: "/etc/passwd", BackingFormat: "raw"}))
	image, err := qcow2.NewReader(f, f.size, nil)
	must(t, err)
	return image
}

func TestARepair(t *testing.T) {
	d := directory{}
	must(t, d.importXVA(exportOf(content())))
	f := d["base"]
	var refcount [2]byte
	at := int64(2 * 64 << 10) // the first block, behind header and refcount table
	_, err := f.ReadAt(refcount[:], at)
	must(t, err)
	refcount[1]++
	_, err = f.WriteAt(refcount[:], at)
	must(t, err)
	res, err := qcow2.CheckReader(f, f.size)
	if err != nil || res.Leaks != 1 {
		t.Errorf("check: %+v, %v", res, err)
	}
	res, err = qcow2.Check(f, qcow2.RepairAll)
	if err != nil || res.LeaksFixed != 1 || res.Leaks != 0 {
		t.Errorf("repair: %+v, %v", res, err)
	}
	must(t, check(f))
	must(t, d.same("base", "qcow2", content()))
}

// mirror is a format of this module: it has the disk backwards.
type mirror struct{ b []byte }

func (m mirror) Image() vhd.Summary {
	return vhd.Summary{Format: "mirror", VirtualSize: int64(len(m.b))}
}

func (m mirror) Extent(off, end int64) (vhd.Extent, error) {
	return vhd.Extent{Offset: off, Length: end - off, Kind: vhd.Compressed, Host: vhd.NoHost}, nil
}

func (m mirror) ReadAt(p []byte, off int64) (int, error) {
	for i := range p {
		p[i] = m.b[len(m.b)-1-int(off)-i]
	}
	return len(p), nil
}

func (m mirror) Host() vhd.File { return nil }

func (m mirror) Close() error { return nil }

func TestAFormatOfOurOwnBelow(t *testing.T) {
	want := content()
	backwards := make([]byte, len(want))
	for i, c := range want {
		backwards[len(want)-1-i] = c
	}
	d := directory{}
	w, err := d.newImage("overlay", qcow2.CreateOptions{Size: size, Backing: "mirror", BackingFormat: "mirror"})
	must(t, err)
	must(t, w.Flush())
	top, err := d.open("overlay", "qcow2", "")
	must(t, err)
	disk, err := qcow2.OpenDisk(top, func(name, format string) (qcow2.Source, error) {
		if name != "mirror" || format != "mirror" {
			return nil, errors.New("another name")
		}
		return mirror{backwards}, nil
	})
	must(t, err)
	got := make([]byte, size)
	if _, err := disk.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("other bytes, %v", err)
	}
}

func TestARetentionRule(t *testing.T) {
	rule := policy.Keep{Last: 1}
	verdicts := rule.Apply([]policy.Snapshot{{Name: "a"}, {Name: "b"}}, policy.Snapshot{}.Time)
	if len(verdicts) != 2 || verdicts[0].Keep || !verdicts[1].Keep {
		t.Errorf("%+v", verdicts)
	}
}
