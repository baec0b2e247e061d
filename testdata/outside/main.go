// Command outside is a program that uses virt-rotate's packages as anybody could: it
// sees nothing internal, and all files are its own. It takes a disk out of an export,
// keeps it in qcow2, puts an overlay on it, commits it, and copies it into a VHD.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/qcow2"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
	"github.com/virt-rotate/virt-rotate/vhdbridge/xva"
)

const size = 4 << 20 // of the disk, bytes

func main() {
	if err := run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(out io.Writer) error {
	want := content()
	d := directory{}
	steps := []struct {
		what string
		do   func() error
	}{
		{"import the export", func() error { return d.importXVA(exportOf(want)) }},
		{"write an overlay", func() error { return d.overlay(want) }},
		{"read the chain", func() error { return d.same("overlay", "qcow2", want) }},
		{"list its extents", func() error { return d.extents(out) }},
		{"commit", func() error { return d.commit() }},
		{"read the base", func() error { return d.same("base", "qcow2", want) }},
		{"check it", func() error { return check(d["base"]) }},
		{"copy it into a VHD", func() error { return d.toVHD() }},
		{"read the VHD", func() error { return d.same("copy", "vhd", want) }},
		{"apply a retention rule", func() error { return retain(out) }},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
		fmt.Fprintln(out, s.what)
	}
	return nil
}

// content is what is on the disk of the export.
func content() []byte {
	b := make([]byte, size)
	copy(b, "a boot sector")
	copy(b[2<<20:], bytes.Repeat([]byte("data"), 1000))
	return b
}

func (d directory) importXVA(export []byte) error {
	r, err := xva.NewReader(bytes.NewReader(export))
	if err != nil {
		return err
	}
	defer r.Close()
	disk := r.VM().Disks[0]
	w, err := d.newImage("base", qcow2.CreateOptions{Size: disk.Size})
	if err != nil {
		return err
	}
	for {
		c, err := r.Next()
		if errors.Is(err, io.EOF) {
			return w.Flush()
		}
		if err != nil {
			return err
		}
		if _, err := w.WriteAt(c.Data, c.Offset); err != nil {
			return err
		}
	}
}

func (d directory) newImage(name string, o qcow2.CreateOptions) (*qcow2.Writer, error) {
	f := newSectors()
	d[name] = f
	if err := qcow2.Create(f, o); err != nil {
		return nil, err
	}
	image, err := qcow2.Open(f, nil)
	if err != nil {
		return nil, err
	}
	return qcow2.NewWriter(image)
}

// overlay overwrites a cluster of the disk, in an image of its own.
func (d directory) overlay(want []byte) error {
	w, err := d.newImage("overlay", qcow2.CreateOptions{Size: size, Backing: "base", BackingFormat: "qcow2"})
	if err != nil {
		return err
	}
	at := want[1<<20:][:64<<10]
	copy(at, bytes.Repeat([]byte("newer"), 64<<10))
	if _, err := w.WriteAt(at, 1<<20); err != nil {
		return err
	}
	return w.Flush()
}

func (d directory) same(name, format string, want []byte) error {
	disk, err := d.disk(name, format, "")
	if err != nil {
		return err
	}
	got, err := io.ReadAll(io.NewSectionReader(disk, 0, disk.Size()))
	if err == nil && !bytes.Equal(got, want) {
		err = errors.New("the bytes are not those that were written")
	}
	return errors.Join(err, disk.Close())
}

func (d directory) extents(out io.Writer) error {
	disk, err := d.disk("overlay", "qcow2", "")
	if err != nil {
		return err
	}
	for x, err := range disk.Extents() {
		if err != nil {
			return err
		}
		layer := "no layer"
		if x.Layer != qcow2.NoLayer {
			layer = fmt.Sprint("layer ", x.Layer)
		}
		fmt.Fprintf(out, "  %7d %7d %s in %s\n", x.Offset, x.Length, x.Kind, layer)
	}
	return disk.Close()
}

func (d directory) commit() error {
	disk, err := d.disk("overlay", "qcow2", "base")
	if err != nil {
		return err
	}
	err = disk.Commit(context.Background(), 0, nil)
	delete(d, "overlay")
	return errors.Join(err, disk.Close())
}

func check(f *sectors) error {
	res, err := qcow2.CheckReader(f, f.size)
	if err == nil && res.Corruptions+res.Leaks+res.CheckErrors > 0 {
		err = fmt.Errorf("%d problems: %v", res.ProblemCount, res.Problems)
	}
	return err
}

// toVHD copies what has data, extent by extent.
func (d directory) toVHD() error {
	disk, err := d.disk("base", "qcow2", "")
	if err != nil {
		return err
	}
	f := newSectors()
	d["copy"] = f
	if err := vhd.Create(f, vhd.CreateOptions{Size: disk.Size()}); err != nil {
		return err
	}
	image, err := vhd.Open(f)
	if err != nil {
		return err
	}
	w, err := vhd.NewWriter(image)
	if err != nil {
		return err
	}
	for x, err := range disk.Extents() {
		if err != nil {
			return err
		}
		if x.Kind == vhd.Hole || x.Kind == vhd.Zero {
			continue
		}
		if _, err := io.Copy(io.NewOffsetWriter(w, x.Offset), io.NewSectionReader(disk, x.Offset, x.Length)); err != nil {
			return err
		}
	}
	return errors.Join(w.Flush(), disk.Close())
}

// retain keeps the newest two, and one of each of three days.
func retain(out io.Writer) error {
	file, err := policy.Parse("policy.toml", []byte("[policy.p]\ndomains = [\"*\"]\nkeep.last = 2\nkeep.daily = 3\n"))
	if err != nil {
		return err
	}
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	var taken []policy.Snapshot
	for h := 96; h >= 0; h -= 8 {
		taken = append(taken, policy.Snapshot{Name: fmt.Sprintf("%d hours ago", h), Time: now.Add(-time.Duration(h) * time.Hour)})
	}
	rule := file.Match([]string{"web"}).Rules["web"]
	for _, v := range rule.Keep.Apply(taken, now) {
		if v.Keep {
			fmt.Fprintf(out, "  %s: %v\n", v.Name, v.Reasons)
		}
	}
	return nil
}
