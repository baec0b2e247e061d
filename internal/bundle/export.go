package bundle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/convert"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A Source is a disk of a snapshot. Nobody may write to its images while it is exported.
type Source struct {
	Target string
	Nodes  []chain.Node // base first
	// Was is, for an increment, the disk that the earlier export was made of, as it is kept
	// now; nil where it is not known to be kept.
	Was []chain.Node

	Bytes int64 // of data: at most, before; copied, after
	How   How
}

// How an image comes about.
type How string

// The ways.
const (
	Whole      How = "whole"
	ByMaps     How = "changes, by the maps of the layers"
	ByContents How = "changes, found by comparing contents"
)

// An Exporter makes the images of a directory.
type Exporter struct {
	*convert.Converter
	Format *formats.Format // of whole images
	Base   *Bundle         // of an increment
	below  map[string][]chain.Node
}

// Measure counts the data that there is to copy, and looks whether there is room for it in parent.
func (x *Exporter) Measure(ctx context.Context, sources []*Source, parent string) error {
	x.below = map[string][]chain.Node{}
	for _, s := range sources {
		if !IsPlain(s.Target) {
			return &chain.RefusedError{Path: s.Target, Reason: "no file can be called as the disk is"}
		}
		if err := x.measure(ctx, s); err != nil {
			return err
		}
	}
	return x.room(sources, parent)
}

func (x *Exporter) measure(ctx context.Context, s *Source) (err error) {
	if x.Base == nil || x.Base.Disk(s.Target) == nil {
		s.How = Whole
		c := &convert.Conversion{Nodes: s.Nodes}
		err = x.Converter.Measure(ctx, []*convert.Conversion{c})
		s.Bytes = c.Bytes
		return err
	}
	if x.below[s.Target], err = x.Base.Nodes(x.Store, s.Target); err != nil {
		return err
	}
	i := x.increment(s)
	if s.How = ByMaps; i.Common() == 0 {
		s.How, s.Was = ByContents, nil
	}
	s.Bytes, err = x.Store.MeasureIncrement(ctx, i)
	return err
}

func (x *Exporter) increment(s *Source) *chain.Increment {
	return &chain.Increment{Base: x.below[s.Target], Disk: s.Nodes, Was: s.Was}
}

// room refuses what will not fit. What is found by comparing contents is not known before, and
// what the file system shares needs none.
func (x *Exporter) room(sources []*Source, parent string) error {
	space, err := vfs.SpaceAt(parent)
	if err != nil {
		return err
	}
	shares := vfs.CanClone(parent) == nil
	var need int64
	for _, s := range sources {
		if s.How != ByContents && (!shares || !onFS(s.Nodes, space.FS)) {
			need += s.Bytes + overhead(s.size())
		}
	}
	return enough(parent, need, space.Free)
}

func onFS(nodes []chain.Node, fs uint64) bool {
	for _, n := range nodes {
		if n.Info.ID.Dev != fs {
			return false
		}
	}
	return true
}

func enough(dir string, need, free int64) error {
	if need > free {
		return &chain.RefusedError{Path: dir, Reason: fmt.Sprintf("it takes up to %d MiB, and %d MiB are free there", need>>20+1, free>>20)}
	}
	return nil
}

// overhead is what the tables of an image take, roughly.
func overhead(size int64) int64 { return 1<<20 + size/4096 }

func (s *Source) size() int64 { return s.Nodes[len(s.Nodes)-1].Image.VirtualSize }

// Export makes an image of each, with its sums.
func (x *Exporter) Export(ctx context.Context, w *Writer, sources []*Source) error {
	for _, s := range sources {
		d, err := x.exportOne(ctx, w, s)
		if err != nil {
			return fmt.Errorf("%s: %w", s.Target, err)
		}
		w.Disks = append(w.Disks, *d)
		w.At("image " + s.Target + " made")
	}
	return nil
}

var errDiffers = errors.New("the new image differs from the snapshot")

// exportOne makes an image, and makes it once more by comparing contents should it turn out
// that the maps have not told all.
func (x *Exporter) exportOne(ctx context.Context, w *Writer, s *Source) (*Disk, error) {
	d, err := x.makeImage(ctx, w, s)
	if errors.Is(err, errDiffers) && s.How == ByMaps {
		if err := os.Remove(w.Path(d.File)); err != nil {
			return nil, err
		}
		s.How, s.Was = ByContents, nil
		d, err = x.makeImage(ctx, w, s)
	}
	return d, err
}

func (x *Exporter) makeImage(ctx context.Context, w *Writer, s *Source) (d *Disk, err error) {
	d = x.disk(s)
	if s.How == Whole {
		err = x.makeWhole(ctx, w.Path(d.File), s)
	} else {
		err = x.makeIncrement(ctx, w.Path(d.File), s, d)
	}
	if err == nil {
		err = x.prove(ctx, w.Path(d.File), s, d)
	}
	return d, err
}

// disk is what the manifest will have of it.
func (x *Exporter) disk(s *Source) *Disk {
	d := &Disk{Target: s.Target}
	d.File, d.Format = ImageName(s.Target, x.Format, x.Base)
	if s.How != Whole {
		d.Backing = backingName(filepath.Base(x.Base.Dir), x.Base.Disk(s.Target).File)
	}
	return d
}

// ImageName is how the image of a disk is called, and its format: that of whole images, but
// where the earlier export has the disk, too.
func ImageName(target string, whole *formats.Format, base *Bundle) (name, format string) {
	if base != nil && base.Disk(target) != nil {
		return target + ".qcow2", "qcow2"
	}
	return target + whole.Extension, whole.Name
}

func (x *Exporter) makeWhole(ctx context.Context, path string, s *Source) error {
	c := &convert.Conversion{Nodes: s.Nodes, Path: path, Format: x.Format, Maker: x.Format.New(), Bytes: s.Bytes}
	c.New.Size = s.size()
	err := x.Convert(ctx, []*convert.Conversion{c})
	s.Bytes = c.Bytes
	return err
}

// makeIncrement makes an overlay on the image of the earlier export.
func (x *Exporter) makeIncrement(ctx context.Context, path string, s *Source, d *Disk) error {
	format, err := formats.Named("qcow2")
	if err != nil {
		return err
	}
	c := &convert.Conversion{Nodes: s.Nodes, Path: path, Format: format, Maker: format.New()}
	c.New.Size, c.New.Backing, c.New.BackingFormat = s.size(), d.Backing, x.Base.Disk(s.Target).Format
	if err := c.Maker.Set("cluster_size", strconv.Itoa(incrementCluster(s.size()))); err != nil {
		return err
	}
	to, err := x.Begin(c)
	if err != nil {
		return err
	}
	done, end := x.Progress("export "+s.Target, s.Bytes)
	s.Bytes = 0
	err = x.Store.Increment(ctx, x.increment(s), to, func(n int64) {
		s.Bytes += n
		done(n)
	})
	end()
	return convert.NameAll([]*convert.Conversion{c}, errors.Join(err, to.Close()))
}

// incrementCluster is as small as what file systems of guests write, but for disks whose
// tables would be too large for QEMU then. Bytes.
func incrementCluster(size int64) int {
	const tib = 1 << 40
	switch {
	case size <= tib:
		return 4 << 10
	case size <= 16*tib:
		return 16 << 10
	}
	return 64 << 10
}

// prove fills in the sums, and compares what the guest reads on the new image with the snapshot.
func (x *Exporter) prove(ctx context.Context, path string, s *Source, d *Disk) error {
	n, err := x.Store.Node(path, d.Format)
	if err != nil {
		return err
	}
	d.VirtualSize = n.Image.VirtualSize
	nodes := append([]chain.Node(nil), n)
	if s.How != Whole {
		nodes = append(append([]chain.Node(nil), x.below[s.Target]...), n)
	}
	done, end := x.Progress("verify "+s.Target, s.size())
	var want string
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) { want, err = contentSum(ctx, x.Store, s.Nodes, done); return err })
	g.Go(func() (err error) { d.ContentSHA256, err = contentSum(ctx, x.Store, nodes, func(int64) {}); return err })
	g.Go(func() (err error) { d.SHA256, d.Size, err = fileSum(ctx, path); return err })
	err = g.Wait()
	end()
	if err == nil && d.ContentSHA256 != want {
		err = errDiffers
	}
	return err
}
