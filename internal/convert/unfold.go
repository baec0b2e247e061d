package convert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// maxLayers is how many layers QEMU opens.
const maxLayers = 200

// A Layer is one state of an image that becomes an image of its own.
type Layer struct {
	chain.State
	Active bool   // what the guest sees now
	Parent *Layer // on which it is built; nil: on what the image builds on
	Path   string // of the new image
	Memory string // of the file with the saved memory; "" for none
	Bytes  int64  // of data: by what the tables say, before; copied, after

	made, memory *Image
	target       chain.Target
}

// depth is how many layers there are from the first one on.
func (l *Layer) depth() int {
	if l == nil {
		return 0
	}
	return l.Parent.depth() + 1
}

// open are the open layers below l, and l itself.
func (l *Layer) open() []chain.Source {
	if l == nil {
		return nil
	}
	return append(l.Parent.open(), l.target)
}

// An Unfolding is an image whose internal snapshots become layers in a directory.
type Unfolding struct {
	Store  *chain.Store
	Nodes  []chain.Node // the image and what it builds on, base first
	Layers []*Layer     // in the order of time, the active one last

	// Progress is told of a piece of work and its bytes, as of a Converter.
	Progress func(what string, total int64) (done func(n int64), end func())

	below []chain.Source
	close func() error
}

// Image is the image that is unfolded.
func (u *Unfolding) Image() chain.Node { return u.Nodes[len(u.Nodes)-1] }

// Close gives the image free again. The plan stays.
func (u *Unfolding) Close() error { return u.close() }

// PlanUnfold lists what becomes of the states of the image that is the last of nodes, in
// the directory dir. Nobody may write to the image until the plan is closed.
//
// States do not tell what they were made from. So they are put in the order of their
// dates, and each builds on that earlier one with which it shares the most: by what the
// tables say, the least is stored twice.
func PlanUnfold(ctx context.Context, s *chain.Store, nodes []chain.Node, dir string) (*Unfolding, error) {
	u := &Unfolding{Store: s, Nodes: nodes}
	format, err := formats.Named(u.Image().Image.Format)
	if err != nil {
		return nil, err
	}
	if format.States == nil || u.Image().Image.Snapshots == 0 {
		return nil, &chain.RefusedError{Path: u.Image().Path, Reason: "it has no internal snapshots"}
	}
	sources, closeAll, err := s.OpenSources(nodes)
	if err != nil {
		return nil, err
	}
	u.close = closeAll
	u.below = sources[:len(sources)-1]
	if err := u.plan(ctx, format, sources[len(sources)-1], dir); err != nil {
		return nil, errors.Join(err, closeAll())
	}
	return u, nil
}

func (u *Unfolding) plan(ctx context.Context, format *formats.Format, image chain.Source, dir string) error {
	states, err := format.States(image)
	if err != nil {
		return fmt.Errorf("%s: %w", u.Image().Path, err)
	}
	slices.SortStableFunc(states, func(a, b chain.State) int { return a.Time.Compare(b.Time) })
	for _, s := range states {
		u.Layers = append(u.Layers, &Layer{State: s})
	}
	u.Layers = append(u.Layers, &Layer{State: chain.State{Source: image}, Active: true})
	for i, l := range u.Layers {
		if err := l.choose(ctx, u.Layers[:i], len(u.below) > 0); err != nil {
			return fmt.Errorf("%s: %w", u.Image().Path, err)
		}
	}
	if d := len(u.below) + u.deepest(); d > maxLayers {
		return &chain.RefusedError{Path: u.Image().Path, Reason: fmt.Sprintf("the chain would have %d layers, and QEMU opens %d", d, maxLayers)}
	}
	u.name(dir, format.Extension)
	return nil
}

func (u *Unfolding) deepest() (d int) {
	for _, l := range u.Layers {
		d = max(d, l.depth())
	}
	return d
}

// choose finds the earlier layer that has most of what l has, the last one of several.
func (l *Layer) choose(ctx context.Context, earlier []*Layer, below bool) error {
	least, err := chain.DistanceOf(ctx, l.Source, nil, below)
	if err != nil {
		return err
	}
	for i, p := range slices.Backward(earlier) {
		d, err := chain.DistanceOf(ctx, l.Source, p.Source, below)
		if err != nil {
			return err
		}
		if i == len(earlier)-1 || d.Less(least) {
			least, l.Parent = d, p
		}
	}
	l.Bytes = least.Data
	return nil
}

// Make writes all layers into dir under temporary names, compares each with the state that
// it is to have, and names them in the end, from the first to the last. When something
// fails none is left. Memory says that saved memory is written to files, too.
func (u *Unfolding) Make(ctx context.Context, memory bool) error {
	var err error
	for _, l := range u.Layers {
		if err = u.makeOne(ctx, l); err != nil {
			break
		}
		if memory && l.State.Memory != nil {
			if err = u.writeMemory(ctx, l); err != nil {
				break
			}
		}
	}
	for _, l := range u.Layers {
		err = errors.Join(err, l.finish(u.Store.FS))
	}
	return NameAll(u.conversions(), err)
}

// conversions are all new files in the order in which they get their names: memory before
// the state that it belongs to, and what is built on before what builds on it.
func (u *Unfolding) conversions() []*Conversion {
	var all []*Conversion
	for _, l := range u.Layers {
		if l.memory != nil {
			all = append(all, &Conversion{Path: l.Memory, Made: l.memory})
		}
		all = append(all, &Conversion{Path: l.Path, Made: l.made})
	}
	return all
}

// finish closes a layer, durably.
func (l *Layer) finish(fsys vfs.FS) error {
	if l.target == nil {
		return nil
	}
	err := l.target.Close()
	l.target = nil
	return errors.Join(err, fsys.SyncDir(filepath.Dir(l.Path)))
}

// makeOne makes one layer.
func (u *Unfolding) makeOne(ctx context.Context, l *Layer) error {
	if err := u.begin(l); err != nil {
		return err
	}
	split := &chain.Split{Below: u.below, To: l.target, State: l.Source}
	if l.Parent != nil {
		split.Parent = l.Parent.Source
	}
	show, end := u.Progress("unfold", l.Bytes)
	l.Bytes = 0
	split.Done = func(n int64) {
		l.Bytes += n
		show(n)
	}
	err := split.Run(ctx)
	end()
	if err != nil {
		return err
	}
	split.Done, end = u.Progress("verify", l.Source.Image().VirtualSize)
	err = split.Verify(ctx, append(slices.Clone(u.below), l.open()...))
	end()
	return err
}

// begin makes an empty layer that is like the image, and opens it.
func (u *Unfolding) begin(l *Layer) (err error) {
	backing, format := u.backing(l)
	fill := func(f vfs.File) error {
		return formats.NewOverlay(u.Store.FS)(f, u.Image().Path, l.Source.Image().VirtualSize, backing, format)
	}
	if l.made, err = Make(u.Store.FS, TempName(filepath.Dir(l.Path)), writer{fill: fill}, formats.New{}); err != nil {
		return err
	}
	how, err := formats.Named(u.Image().Image.Format)
	if err != nil {
		return err
	}
	src, err := how.Open(l.made.file, nil)
	if err != nil {
		return err
	}
	l.made.file = nil
	l.target = src.(chain.Target) //nolint:forcetypeassert // it was opened for writing
	return nil
}

// backing is how a layer names what it builds on: another one in its directory, or the
// backing file of the image.
func (u *Unfolding) backing(l *Layer) (name, format string) {
	switch {
	case l.Parent != nil:
		return filepath.Base(l.Parent.Path), u.Image().Image.Format
	case len(u.Nodes) > 1:
		below := u.Nodes[len(u.Nodes)-2]
		return below.Path, chain.QEMUName(below.Image.Format)
	}
	return "", ""
}

// writeMemory writes the memory of a state, as QEMU has saved it.
func (u *Unfolding) writeMemory(ctx context.Context, l *Layer) (err error) {
	show, end := u.Progress("memory", l.MemorySize)
	defer end()
	l.memory, err = Make(u.Store.FS, TempName(filepath.Dir(l.Memory)), writer{fill: func(f vfs.File) error {
		if err := l.WriteMemory(ctx, io.NewOffsetWriter(f, 0), show); err != nil {
			return err
		}
		return f.Sync()
	}}, formats.New{})
	if err != nil {
		return err
	}
	return l.memory.Close()
}
