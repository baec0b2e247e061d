package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// An Unfold says what becomes of the states of one image.
type Unfold struct {
	Chain  []host.Layer // of the disk, base first: the last one is the image
	Layers []Unfolded   // what others are built on comes first
}

// An Unfolded is a layer that one state becomes.
type Unfolded struct {
	ID, Name string // of the internal snapshot; "" for what the guest sees now
	On       int    // place in Layers of what it is built on; -1 for what the image builds on
	Path     string // of an empty file
	Memory   string // of an empty file for the saved memory; "" for none
}

// Progress is told what is done to which file, of how many bytes.
type Progress func(what, path string, done, total int64)

// States returns the states of the last image of a chain, with what layers would have to store.
func (n *Native) States(ctx context.Context, layers []host.Layer) ([]host.InternalState, error) {
	image, err := n.openStates(layers)
	if err != nil {
		return nil, err
	}
	states, err := image.measure(ctx)
	return states, errors.Join(err, image.close())
}

// stateImage is an open image whose states are read.
type stateImage struct {
	layer  host.Layer
	below  []chain.Source
	active chain.Source
	states []chain.State // in the order of their dates
	close  func() error
}

func (n *Native) openStates(layers []host.Layer) (*stateImage, error) {
	top := layers[len(layers)-1]
	store := n.storeFor(Merge{Chain: layers})
	nodes, err := store.Chain(top.Path, top.Format)
	if err != nil {
		return nil, err
	}
	sources, closeAll, err := store.OpenSources(nodes)
	if err != nil {
		return nil, err
	}
	last := len(sources) - 1
	image := &stateImage{layer: top, below: sources[:last], active: sources[last], close: closeAll}
	if image.states, err = n.Internal(image.active); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", top.Path, err), closeAll())
	}
	slices.SortStableFunc(image.states, func(a, b chain.State) int { return a.Time.Compare(b.Time) })
	return image, nil
}

// measure tells what a layer of each state stores on each earlier one.
func (m *stateImage) measure(ctx context.Context) (all []host.InternalState, err error) {
	states := append(slices.Clone(m.states), chain.State{Source: m.active})
	for i, s := range states {
		out := host.InternalState{ID: s.ID, Name: s.Name, Time: s.Time, Memory: s.MemorySize, On: map[string]int64{}}
		if out.Bytes, err = m.distance(ctx, s.Source, nil); err != nil {
			return nil, err
		}
		for _, p := range states[:i] {
			if out.On[p.ID], err = m.distance(ctx, s.Source, p.Source); err != nil {
				return nil, err
			}
		}
		all = append(all, out)
	}
	return all, nil
}

func (m *stateImage) distance(ctx context.Context, x, y chain.Source) (int64, error) {
	d, err := chain.DistanceOf(ctx, x, y, len(m.below) > 0)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", m.layer.Path, err)
	}
	return d.Data, nil
}

// state finds one by its ID and name.
func (m *stateImage) state(id, name string) (*chain.State, error) {
	if id == "" {
		return &chain.State{Source: m.active}, nil
	}
	i := slices.IndexFunc(m.states, func(s chain.State) bool { return s.ID == id && s.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("%s: its internal snapshot %q has gone", m.layer.Path, name)
	}
	return &m.states[i], nil
}

// Unfold makes the layers of one image after the other, and holds all images until then is
// over.
func (n *Native) Unfold(ctx context.Context, all []Unfold, progress Progress, then func() error) error {
	if len(all) == 0 {
		return then()
	}
	image, err := n.openStates(all[0].Chain)
	if err != nil {
		return err
	}
	u := &unfolding{n, image, &all[0], make([]chain.Target, len(all[0].Layers)), progress}
	if err = errors.Join(u.makeAll(ctx), u.closeLayers()); err == nil {
		err = n.Unfold(ctx, all[1:], progress, then)
	}
	return errors.Join(err, image.close())
}

// An unfolding is the work on one image.
type unfolding struct {
	*Native
	image *stateImage
	*Unfold
	made     []chain.Target // parallel to Layers
	progress Progress
}

func (u *unfolding) makeAll(ctx context.Context) error {
	for i := range u.Layers {
		if err := u.makeOne(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// closeLayers closes what was made, and makes its names durable.
func (u *unfolding) closeLayers() (err error) {
	for i, t := range u.made {
		if t != nil {
			err = errors.Join(err, t.Close(), u.Store.FS.SyncDir(filepath.Dir(u.Layers[i].Path)))
		}
	}
	return err
}

// makeOne fills one layer, and reads it again.
func (u *unfolding) makeOne(ctx context.Context, i int) error {
	l := &u.Layers[i]
	state, err := u.image.state(l.ID, l.Name)
	if err != nil {
		return err
	}
	if u.made[i], err = u.begin(l, state); err != nil {
		return fmt.Errorf("%s: %w", l.Path, err)
	}
	split := &chain.Split{Below: u.image.below, To: u.made[i], State: state.Source}
	if l.On >= 0 {
		parent, err := u.image.state(u.Layers[l.On].ID, u.Layers[l.On].Name)
		if err != nil {
			return err
		}
		split.Parent = parent.Source
	}
	size := state.Source.Image().VirtualSize
	split.Done = counted(size, func(done, total int64) { u.progress("unfold", l.Path, done, total) })
	if err := split.Run(ctx); err != nil {
		return err
	}
	split.Done = counted(size, func(done, total int64) { u.progress("verify", l.Path, done, total) })
	if err := split.Verify(ctx, u.layersOf(i)); err != nil {
		return err
	}
	return u.keepMemory(ctx, l, state)
}

// begin makes the empty file an image without data that is like the one with the states.
func (u *unfolding) begin(l *Unfolded, state *chain.State) (chain.Target, error) {
	f, err := u.Store.FS.Open(l.Path, true)
	if err != nil {
		return nil, err
	}
	backing, format := u.backing(l)
	if err = f.Lock(vfs.LockWrite); err == nil {
		err = u.NewOverlay(f, u.image.layer.Path, state.Source.Image().VirtualSize, backing, format)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	how := slices.IndexFunc(u.Store.Formats, func(f chain.Format) bool { return f.Name == u.image.layer.Format })
	if how < 0 {
		return nil, errors.Join(fmt.Errorf("format %q is not known", u.image.layer.Format), f.Close())
	}
	src, err := u.Store.Formats[how].Open(f, nil)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return src.(chain.Target), nil //nolint:forcetypeassert // it was opened for writing
}

// backing is how a layer names what it is built on.
func (u *unfolding) backing(l *Unfolded) (name, format string) {
	if l.On >= 0 {
		return u.Layers[l.On].Path, u.image.layer.Format
	}
	if n := len(u.Chain); n > 1 {
		return u.Chain[n-2].Path, u.Chain[n-2].Format
	}
	return "", ""
}

// layersOf are the open images that a new layer is the top of, base first.
func (u *unfolding) layersOf(i int) []chain.Source {
	var up []chain.Source
	for ; i >= 0; i = u.Layers[i].On {
		up = append(up, u.made[i])
	}
	slices.Reverse(up)
	return append(slices.Clone(u.image.below), up...)
}

// keepMemory writes the saved memory of a state, as QEMU has saved it.
func (u *unfolding) keepMemory(ctx context.Context, l *Unfolded, state *chain.State) error {
	if l.Memory == "" || state.Memory == nil {
		return nil
	}
	f, err := u.Store.FS.Open(l.Memory, true)
	if err != nil {
		return err
	}
	done := counted(state.MemorySize, func(done, total int64) { u.progress("memory", l.Memory, done, total) })
	if err = state.WriteMemory(ctx, io.NewOffsetWriter(f, 0), done); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close(), u.Store.FS.SyncDir(filepath.Dir(l.Memory)))
}
