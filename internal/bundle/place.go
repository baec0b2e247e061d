package bundle

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/convert"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A Placing puts the disks of an export where a guest can have them: each as one image that
// builds on nothing.
type Placing struct {
	*convert.Converter
	Bundle       *Bundle
	Dir          string // where the images go
	Domain, UUID string // of the guest that is to have them
	At           func(boundary string)

	images []*Placement
}

// A Placement is an image that is to be placed.
type Placement struct {
	Target, Path, Format string
	*convert.Conversion
	id vfs.ID
}

// ErrMaybeDefined means that nobody can say whether the guest was defined: its images stay.
var ErrMaybeDefined = errors.New("whether the domain was defined is not known")

// Plan tells which images there will be. It looks at those of the export and whether the new
// names are free.
func (p *Placing) Plan() ([]*Placement, error) {
	for i := range p.Bundle.Disks {
		m, err := p.placement(&p.Bundle.Disks[i])
		if err != nil {
			return nil, err
		}
		if err := convert.CheckFree(p.Store.FS, m.Path); err != nil {
			return nil, err
		}
		p.images = append(p.images, m)
	}
	return p.images, nil
}

func (p *Placing) placement(d *Disk) (*Placement, error) {
	nodes, err := p.Bundle.Nodes(p.Store, d.Target)
	if err != nil {
		return nil, err
	}
	name := "qcow2"
	if d.Format == "raw" {
		name = "raw"
	}
	format, err := formats.Named(name)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(p.Dir, p.Domain+"-"+d.Target+format.Extension)
	c := &convert.Conversion{Nodes: nodes, Path: path, Format: format, Maker: format.New()}
	c.New.Size = d.VirtualSize
	return &Placement{Target: d.Target, Path: path, Format: name, Conversion: c}, nil
}

// Measure counts the data that there is to copy, and looks whether there is room for it.
func (p *Placing) Measure(ctx context.Context) error {
	var all []*convert.Conversion
	need := int64(0)
	for _, m := range p.images {
		all = append(all, m.Conversion)
	}
	if err := p.Converter.Measure(ctx, all); err != nil {
		return err
	}
	space, err := vfs.SpaceAt(p.Dir)
	if err != nil {
		return err
	}
	shares := vfs.CanClone(p.Dir) == nil
	for _, m := range p.images {
		if !shares || !onFS(m.Nodes, space.FS) {
			need += m.Bytes + overhead(m.New.Size)
		}
	}
	return enough(p.Dir, need, space.Free)
}

// Place makes the images, compares them with the manifest, gives them their names and has the
// guest defined. When anything fails, none is left.
func (p *Placing) Place(ctx context.Context, define func() error) error {
	temp, err := newTempDir(p.Dir)
	if err != nil {
		return err
	}
	p.At("import begun")
	if err := p.makeImages(ctx, temp); err != nil {
		return errors.Join(err, temp.remove())
	}
	if err := p.nameImages(temp); err != nil {
		return errors.Join(err, p.takeBack(), temp.remove())
	}
	p.At("images placed")
	err = define()
	if errors.Is(err, ErrMaybeDefined) {
		return err // the note says whose the images are
	}
	if err != nil {
		return errors.Join(err, p.takeBack(), temp.remove())
	}
	p.At("domain defined")
	return temp.remove()
}

// makeImages makes all of them in the temporary directory.
func (p *Placing) makeImages(ctx context.Context, temp *tempDir) error {
	var all []*convert.Conversion
	for _, m := range p.images {
		m.Conversion.Path = filepath.Join(temp.path, filepath.Base(m.Path))
		all = append(all, m.Conversion)
	}
	if err := p.Convert(ctx, all); err != nil {
		return err
	}
	p.At("images made")
	for _, m := range p.images {
		if err := p.prove(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// prove compares what the guest will read with the manifest.
func (p *Placing) prove(ctx context.Context, m *Placement) error {
	n, err := p.Store.Node(m.Conversion.Path, m.Format)
	if err != nil {
		return err
	}
	m.id = n.Info.ID
	done, end := p.Progress("verify "+m.Target, m.New.Size)
	sum, err := contentSum(ctx, p.Store, []chain.Node{n}, done)
	end()
	d := p.Bundle.Disk(m.Target)
	if err == nil && sum != d.ContentSHA256 {
		err = damaged(p.Bundle.path(d.File), "the guest would read other data than was exported")
	}
	return err
}

// nameImages notes what it is about to do, and does it.
func (p *Placing) nameImages(temp *tempDir) error {
	note := Placed{Domain: p.Domain, UUID: p.UUID}
	for _, m := range p.images {
		note.Images = append(note.Images, PlacedImage{m.Path, m.id})
	}
	if err := temp.note(note); err != nil {
		return err
	}
	p.At("import noted")
	for _, m := range p.images {
		err := vfs.RenameNew(m.Conversion.Path, m.Path)
		if errors.Is(err, fs.ErrExist) {
			return alreadyThere(m.Path)
		}
		if err != nil {
			return err
		}
		p.At("image " + m.Target + " placed")
	}
	return nil
}

// takeBack removes the images that have got their names.
func (p *Placing) takeBack() error {
	var errs []error
	for _, m := range p.images {
		info, err := vfs.Lstat(m.Path)
		if err == nil && info.ID == m.id {
			errs = append(errs, p.Store.FS.RemoveExact(m.Path, m.id))
		}
	}
	return errors.Join(errs...)
}
