package sr

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/convert"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/vhdbridge/pool"
	"github.com/virt-rotate/virt-rotate/vhdbridge/xva"
)

// isExport tells an export (XVA) from a repository, which is a directory, or physical volumes.
func isExport(arg string) bool {
	if arg == "-" {
		return true
	}
	info, err := os.Stat(arg)
	return err == nil && !info.IsDir() && !isVolume(arg)
}

// convertExport makes an image of each disk of an export.
func convertExport(r *images.Run) (err error) {
	r.Hint = ": what was begun is removed"
	format, o, err := exportTarget(r)
	if err != nil {
		return err
	}
	in, name, length, err := xva.Open(r.Arg(0))
	if err != nil {
		return err
	}
	defer in.Close()
	pipe := xva.Interruptible(r.Ctx(), in)
	defer pipe.Close()
	x, err := xva.NewReader(pipe)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer x.Close()
	p := &xvaRun{Run: r, reader: x, name: name}
	if p.guest, err = guestOf(r, x.VM()); err != nil {
		return err
	}
	if p.guest != nil {
		defer func() { err = errors.Join(err, p.guest.close()) }()
	}
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
	return p.told()
}

// told prints what was made, and defines the guest on it, if that is wanted.
func (p *xvaRun) told() error {
	r := p.Run
	done := converted{steps: p.steps(), lost: p.lost, named: p.named()}
	if err := done.print(r); err != nil {
		return err
	}
	if err := p.defineGuest(); err != nil {
		return err
	}
	if len(p.lost) > 0 {
		tellMissing(r, p.lost)
		return &term.ExitError{Code: term.ExitSome}
	}
	return nil
}

// exportTarget is repositoryTarget for disks that are whole already.
func exportTarget(r *images.Run) (*formats.Format, *images.Options, error) {
	switch {
	case r.String("to") == "":
		return nil, nil, term.Usagef("sr convert wants --to DEST, a directory")
	case r.Bool("again"):
		return nil, nil, term.Usagef("--again is for repositories: an XVA is read in one pass")
	case r.Bool("keep-all") || r.Bool("flatten"):
		return nil, nil, term.Usagef("an XVA has no chains: --flatten and --keep-all are for repositories")
	case r.IsSet("names"):
		return nil, nil, term.Usagef("an XVA tells itself what its guests and disks are called: --names is for repositories")
	}
	format, err := formats.Named(r.String("output-format"))
	if err != nil {
		return nil, nil, err
	}
	o := images.DefaultOptions(format)
	switch {
	case format.Name != "raw" && format.Name != "qcow2":
		return nil, nil, term.Usagef("-O %s: want qcow2 or raw", format.Name)
	case !r.IsSet("cluster-size"):
	case format.Name == "raw":
		return nil, nil, term.Usagef("--cluster-size: raw disks have no clusters")
	default:
		err = setClusters(r, o)
	}
	return format, o, err
}

// An xvaRun is the conversion of one export.
type xvaRun struct {
	*images.Run
	reader *xva.Reader
	name   string
	dest   string
	all    []*convert.Conversion          // in the order of ova.xml
	of     map[string]*convert.Conversion // by the disk's id; those that are wanted
	disks  map[*convert.Conversion]xva.Disk
	lost   []missing      // with --salvage
	guest  *exportedGuest // whose disks become chains; nil: each disk is made by itself
}

// plan decides what becomes of each disk, and sees that there is room. Length is that of
// an export that is not compressed; 0: not known.
func (p *xvaRun) plan(format *formats.Format, o *images.Options, length int64) error {
	disks, missing := p.reader.VM().Choose(p.StringSlice("vdi"))
	p.dest, p.of, p.disks = p.String("to"), map[string]*convert.Conversion{}, map[*convert.Conversion]xva.Disk{}
	if p.guest != nil {
		disks = p.guest.disks()
		p.planGuest(format, o)
	} else {
		for _, d := range disks {
			p.addDisk(d, d.UUID+format.Extension, format, o)
		}
	}
	for _, c := range p.all {
		if err := convert.CheckFree(p.Store.FS, c.Path); err != nil {
			return err
		}
	}
	switch {
	case len(missing) > 0:
		return term.Usagef("--vdi %s: %s has no disk of that UUID", missing[0], p.name)
	case len(disks) == 0:
		return &chain.RefusedError{Path: p.name, Reason: "it holds no disks"}
	}
	bytes := xva.MostBytes(disks, length)
	if p.guest != nil && len(p.guest.snapshots) > 0 {
		bytes *= 2 // whole disks first, and then what differs
	}
	return p.checkSpace(bytes)
}

// addDisk lets a disk of the export become a file.
func (p *xvaRun) addDisk(d xva.Disk, file string, format *formats.Format, o *images.Options) {
	c := &convert.Conversion{Path: filepath.Join(p.dest, file), Format: format, New: o.New, Maker: o.Maker}
	c.New.Size = d.Size
	p.all, p.of[d.ID], p.disks[c] = append(p.all, c), c, d
}

// named tells whose the images are.
func (p *xvaRun) named() (named []namedImage) {
	vdis := pool.OfExport(p.reader.VM()).VDIs()
	for _, c := range p.all {
		if v, there := vdis[p.disks[c].UUID]; there && (c.Made != nil || p.Bool("dry-run")) {
			named = append(named, namedImage{Image: c.Path, UUID: v.UUID, Known: knownJSON(&v)})
		}
	}
	return named
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
	done, end := p.Progress("convert", total)
	err = p.fill(done)
	end()
	for _, c := range p.all {
		if c.Made == nil && err == nil && (p.IsSet("vdi") || p.guest != nil) && !p.Bool("salvage") {
			err = fmt.Errorf("it holds no data of the disk %s", p.disks[c].UUID)
		}
	}
	if err = p.whole(err); err == nil && p.guest != nil {
		err = p.build()
	}
	if err = convert.NameAll(p.begun(), err); err == nil {
		return nil
	}
	p.Moved = 0 // what was changed is gone again
	if fresh {
		err = errors.Join(err, notThere(os.Remove(p.dest)))
	}
	return err
}

// whole tells what to do about an export that is damaged, and drops images that cannot be
// used.
func (p *xvaRun) whole(err error) error {
	var bad *xva.FormatError
	if errors.As(err, &bad) {
		err = fmt.Errorf("%w; with --salvage all that is whole is made", err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	for _, c := range p.all {
		if c.Err != nil && c.Made != nil {
			err = errors.Join(err, c.Made.Discard())
			c.Made = nil
		}
	}
	return err
}

// miss notes what an export has lost of a disk that is wanted.
func (p *xvaRun) miss(h xva.Hole) {
	c := p.of[h.Disk.ID]
	if c == nil {
		return
	}
	if h.Whole {
		c.Err = errors.New(h.Reason)
	}
	p.lost = append(p.lost, missingOf(&h, c.Path))
}

// notThere leaves out that a directory is gone or holds what is not ours.
func notThere(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return nil
	}
	return err
}

// begun are the images of which anything was made.
func (p *xvaRun) begun() (all []*convert.Conversion) {
	for _, c := range p.all {
		if c.Made != nil {
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
	if p.Bool("salvage") {
		p.reader.Salvage(p.miss)
	}
	return p.reader.Extract(p.Ctx(), open, func(id string, n int64) {
		p.of[id].Bytes += n
		done(n)
	})
}

// An imageSink is the image that is being written.
type imageSink struct {
	*chain.Sink
	io.Closer
}

func (p *xvaRun) newSink(c *convert.Conversion) (xva.Sink, error) {
	to, err := p.Converter().Begin(c)
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
func (p *xvaRun) steps() []images.Step {
	var steps []images.Step
	for _, c := range p.all {
		if c.Made == nil && !p.Bool("dry-run") {
			continue // told of, but not attached and not exported; or lost
		}
		d := p.disks[c]
		s := images.Step{Op: "convert", Path: p.name + ":" + d.ID, Target: c.Path, Note: c.Format.Name + "; " + owner(&d)}
		if !p.Bool("dry-run") {
			s.Bytes = &c.Bytes
		}
		steps = append(steps, s)
	}
	return steps
}

// owner says whose a disk is.
func owner(d *xva.Disk) string {
	text := fmt.Sprintf("disk %q", d.Name)
	if d.Snapshot != "" {
		text += fmt.Sprintf(" of the snapshot %q", d.Snapshot)
	}
	if d.VM != "" {
		text += fmt.Sprintf(" of %q", d.VM)
	}
	if d.Device != "" {
		text += ", device " + d.Device
	}
	return text
}
