package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/vhdbridge/xva"
)

// isExport tells an export (XVA) from a repository, which is a directory.
func isExport(arg string) bool {
	if arg == "-" {
		return true
	}
	info, err := os.Stat(arg)
	return err == nil && !info.IsDir()
}

// convertExport makes an image of each disk of an export.
func convertExport(r *imageRun) (err error) {
	r.hint = ": what was begun is removed"
	format, o, err := exportTarget(r)
	if err != nil {
		return err
	}
	in, name, length, err := xva.Open(r.arg(0))
	if err != nil {
		return err
	}
	defer in.Close()
	pipe := xva.Interruptible(r.ctx(), in)
	defer pipe.Close()
	x, err := xva.NewReader(pipe)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer x.Close()
	p := &xvaRun{imageRun: r, reader: x, name: name}
	if !x.Plain() {
		length = 0
	}
	if err := p.plan(format, o, length); err != nil {
		return err
	}
	if !r.Bool("dry-run") {
		if err := p.make(); err != nil {
			return err
		}
	}
	return r.steps(p.steps())
}

// exportTarget is srTarget for disks that are whole already.
func exportTarget(r *imageRun) (*formats.Format, *createOptions, error) {
	switch {
	case r.String("to") == "":
		return nil, nil, usagef("sr convert wants --to DEST, a directory")
	case r.Bool("keep-all") || r.Bool("flatten"):
		return nil, nil, usagef("an XVA has no chains: --flatten and --keep-all are for repositories")
	case r.IsSet("define") || r.IsSet("domain-xml"):
		return nil, nil, usagef("--define and --domain-xml are for repositories")
	}
	format, err := formats.Named(r.String("output-format"))
	if err != nil {
		return nil, nil, err
	}
	o := defaultOptions(format)
	switch {
	case format.Name != "raw" && format.Name != "qcow2":
		return nil, nil, usagef("-O %s: want qcow2 or raw", format.Name)
	case !r.IsSet("cluster-size"):
	case format.Name == "raw":
		return nil, nil, usagef("--cluster-size: raw disks have no clusters")
	default:
		err = setClusters(r, o)
	}
	return format, o, err
}

// An xvaRun is the conversion of one export.
type xvaRun struct {
	*imageRun
	reader *xva.Reader
	name   string
	dest   string
	all    []*conversion          // in the order of ova.xml
	of     map[string]*conversion // by the disk's id; those that are wanted
	disks  map[*conversion]xva.Disk
}

// plan decides what becomes of each disk, and sees that there is room. Length is that of
// an export that is not compressed; 0: not known.
func (p *xvaRun) plan(format *formats.Format, o *createOptions, length int64) error {
	disks, missing := p.reader.VM().Choose(p.StringSlice("vdi"))
	p.dest, p.of, p.disks = p.String("to"), map[string]*conversion{}, map[*conversion]xva.Disk{}
	for _, d := range disks {
		c := &conversion{path: filepath.Join(p.dest, d.UUID+format.Extension), format: format, create: *o}
		c.create.Size = d.Size
		p.all, p.of[d.ID], p.disks[c] = append(p.all, c), c, d
		if err := checkFree(p.store.FS, c.path); err != nil {
			return err
		}
	}
	switch {
	case len(missing) > 0:
		return usagef("--vdi %s: %s has no disk of that UUID", missing[0], p.name)
	case len(disks) == 0:
		return &chain.RefusedError{Path: p.name, Reason: "it holds no disks"}
	}
	return p.checkSpace(xva.MostBytes(disks, length))
}

// checkSpace refuses what cannot fit. Bytes are the most that the data can be in an
// export that is not compressed: its length; else what XenServer says that the disks took.
func (p *xvaRun) checkSpace(bytes int64) error {
	dir, err := filepath.Abs(p.dest)
	if err != nil {
		return err
	}
	space, err := vfs.SpaceAt(dir)
	for errors.Is(err, os.ErrNotExist) && dir != "/" {
		dir = filepath.Dir(dir)
		space, err = vfs.SpaceAt(dir)
	}
	if err != nil {
		return err
	}
	if bytes > space.Free {
		return &chain.RefusedError{Path: p.dest, Reason: fmt.Sprintf("the disks of %s can take %s, and %s are free", p.name, host.Bytes(bytes), host.Bytes(space.Free))}
	}
	return nil
}

// make reads the export once and writes the images. When anything fails none is left,
// nor is a directory that was made for them.
func (p *xvaRun) make() error {
	_, err := os.Lstat(p.dest)
	fresh := errors.Is(err, os.ErrNotExist)
	if err := os.MkdirAll(p.dest, 0o711); err != nil {
		return err
	}
	total := int64(0)
	for _, d := range p.disks {
		total += d.Used
	}
	done, end := p.progress("convert", total)
	err = p.fill(done)
	end()
	for _, c := range p.all {
		if c.made == nil && err == nil && p.IsSet("vdi") {
			err = fmt.Errorf("it holds no data of the disk %s", p.disks[c].UUID)
		}
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", p.name, err)
	}
	if err = p.nameAll(p.begun(), err); err != nil && fresh {
		err = errors.Join(err, notThere(os.Remove(p.dest)))
	}
	return err
}

// notThere leaves out that a directory is gone or holds what is not ours.
func notThere(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return nil
	}
	return err
}

// begun are the images of which anything was made.
func (p *xvaRun) begun() (all []*conversion) {
	for _, c := range p.all {
		if c.made != nil {
			all = append(all, c)
		}
	}
	return all
}

// fill writes the images that are wanted. Other disks are verified only.
func (p *xvaRun) fill(done func(int64)) error {
	open := func(d xva.Disk) (xva.Sink, error) {
		c := p.of[d.ID]
		if c == nil {
			return nil, nil
		}
		return p.newSink(c)
	}
	return p.reader.Extract(p.ctx(), open, func(id string, n int64) {
		p.of[id].bytes += n
		done(n)
	})
}

// An imageSink is the image that is being written.
type imageSink struct {
	*chain.Sink
	io.Closer
}

func (p *xvaRun) newSink(c *conversion) (xva.Sink, error) {
	to, err := p.begin(c)
	if err != nil {
		return nil, err
	}
	sink, err := chain.NewSink(to)
	if err != nil {
		return nil, errors.Join(err, to.Close())
	}
	return imageSink{sink, to}, nil
}

// steps says what became of each disk.
func (p *xvaRun) steps() []imageStep {
	vm := p.reader.VM().Name
	var steps []imageStep
	for _, c := range p.all {
		d := p.disks[c]
		note := fmt.Sprintf("%s; disk %q of %q", c.format.Name, d.Name, vm)
		if d.Device != "" {
			note += ", device " + d.Device
		}
		if c.made == nil && !p.Bool("dry-run") {
			continue // told of, but not attached and not exported
		}
		s := imageStep{Op: "convert", Path: p.name + ":" + d.ID, Target: c.path, Note: note}
		if !p.Bool("dry-run") {
			s.Bytes = &c.bytes
		}
		steps = append(steps, s)
	}
	return steps
}
