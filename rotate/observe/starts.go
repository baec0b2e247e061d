package observe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/blockid"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/coord"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// withdrawWait is how long a start that is refused may take to be taken back.
const withdrawWait = 5 * time.Second

// Starting tells the other hosts what a guest needs that is about to be started here, or why it must not be: one of them
// merges into that, or cannot be asked. d is as libvirt starts it; only its disks, its name and its UUID matter.
func (o *Observer) Starting(ctx context.Context, d *host.Domain) error {
	var begun []coord.Storage
	for s, start := range o.needs(d) {
		start.When = o.now()
		if err := coord.Begin(ctx, s, start); err != nil {
			after, cancel := context.WithTimeout(context.WithoutCancel(ctx), withdrawWait)
			defer cancel()
			for _, b := range begun {
				err = errors.Join(err, coord.Withdraw(after, b, d.UUID))
			}
			return fmt.Errorf("%s: %w", s.Dir(), err)
		}
		begun = append(begun, s)
	}
	return nil
}

// Stopped tells the other hosts that a guest has ended here.
func (o *Observer) Stopped(ctx context.Context, d *host.Domain) error {
	var err error
	for s := range o.needs(d) {
		err = errors.Join(err, coord.End(ctx, s, d.UUID, o.now()))
	}
	return err
}

// needs is what the guest uses of each storage whose hosts tell each other by a store.
func (o *Observer) needs(d *host.Domain) func(yield func(coord.Storage, coord.Start) bool) {
	return func(yield func(coord.Storage, coord.Start) bool) {
		if o.Fleet == nil || o.Fleet.Store == nil {
			return
		}
		w := o.chainsOf(d)
		doubt := doubtOf(w, d)
		for _, s := range o.Fleet.All() {
			start := coord.Start{UUID: d.UUID, Name: d.Name, Doubt: doubt, Layers: w.layersOn(s, d)}
			if len(start.Layers) > 0 || doubt != "" {
				if !yield(s, start) {
					return
				}
			}
		}
	}
}

// chainsOf follows the disks of the domain down by the headers of the images, and asks for the storages that they lie on.
func (o *Observer) chainsOf(d *host.Domain) *World {
	w := newWorld()
	w.Devices = map[string]blockid.Device{}
	look := newLooker(o)
	off := host.Domain{State: host.ShutOff}
	for i := range d.Disks {
		look.disk(w, &off, &d.Disks[i])
		for _, l := range d.Disks[i].Chain {
			if !l.Kind.HasPath() {
				continue
			}
			o.Fleet.On(w.dirOf(d, l.Path))
			if o.noteDevice(w, l.Key()) {
				o.Fleet.OnDevices()
			}
		}
	}
	return w
}

// layersOn is what hosts call the layers of the domain's disks that are on the storage.
func (w *World) layersOn(s coord.Storage, d *host.Domain) (named []coord.Layer) {
	for i := range d.Disks {
		for k, l := range d.Disks[i].Chain {
			if n, on := w.named(s, placed{l.Key(), l.Path}); on && l.Kind.HasPath() {
				n.Active = k == len(d.Disks[i].Chain)-1 && !d.Disks[i].ReadOnly
				named = append(named, n)
			}
		}
	}
	return named
}

// doubtOf tells why it is not known all that the domain uses; "" if it is.
func doubtOf(w *World, d *host.Domain) string {
	for i := range d.Disks {
		for _, l := range d.Disks[i].Chain {
			switch {
			case l.Kind == host.KindVolume:
				return fmt.Sprintf("disk %s is volume %s of pool %s, whose file is not known", d.Disks[i].Target, host.Quoted(l.Volume.Name), host.Quoted(l.Volume.Pool))
			case l.Kind.HasPath() && l.Problem != "":
				return fmt.Sprintf("%s: %s", l.Path, l.Problem)
			}
		}
	}
	for i := range w.Strange {
		if x := &w.Strange[i]; x.Anywhere {
			return x.Path + ": " + x.Reason
		}
	}
	return ""
}

// TellWork tells the hosts that ask before they start a guest what this one is about to merge or to delete, as its journal
// says. Whoever merges looks at what they have told afterwards.
func (o *Observer) TellWork(ctx context.Context, w *World) error {
	if o.Fleet == nil || o.Fleet.Store == nil || o.Fleet.Asks == nil || w.Remote {
		return nil
	}
	for _, s := range o.storages(w) {
		v, err := s.View(ctx)
		if err == nil && (!v.Registered || !v.Mine.Asks) {
			continue // nobody relies on this host there, nor does it
		}
		err = s.Tell(ctx, o.now(), func(v coord.View) coord.Told {
			told := v.Mine
			told.Merging = o.work(w, s, told.Merging)
			return told
		})
		if err != nil {
			return fmt.Errorf("%s: the other hosts cannot be told what is about to be merged: %w", s.Dir(), err)
		}
	}
	return nil
}

// asks tells whether libvirt here starts no guest without asking the other hosts.
func (o *Observer) asks() bool {
	return o.Fleet != nil && o.Fleet.Store != nil && o.Fleet.Asks != nil && o.Fleet.Asks()
}

// work is what the intents of this host are about on the storage. Of one that cannot be read it stays what was told.
func (o *Observer) work(w *World, s coord.Storage, was []coord.Work) (all []coord.Work) {
	intents, err := journal.In(o.StateDir).Load()
	if err != nil {
		return was
	}
	for uuid, in := range intents {
		work := coord.Work{UUID: uuid, Name: in.Domain, Layers: w.worksOn(s, in)}
		if i := slices.IndexFunc(was, func(w coord.Work) bool { return w.UUID == uuid }); i >= 0 && in.Broken != "" {
			work = was[i]
		}
		if len(work.Layers) > 0 {
			all = append(all, work)
		}
	}
	slices.SortFunc(all, func(a, b coord.Work) int { return cmp.Compare(a.UUID, b.UUID) })
	return all
}

// worksOn is what an intent touches of the storage. What is gone nobody needs, and what is made later nobody has.
func (w *World) worksOn(s coord.Storage, in *journal.Intent) (layers []coord.Layer) {
	for _, path := range in.Touches() {
		info, err := vfs.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if l, on := w.named(s, placed{host.LayerKey(info.ID, path), path}); on {
			layers = append(layers, l)
		}
	}
	return layers
}

// Alone tells whether an image may be locked for writing where other hosts do not see that: none of them starts a guest
// without asking, as was seen in the last look.
func (o *Observer) Alone(path string) bool {
	if to, err := filepath.EvalSymlinks(path); err == nil {
		path = to
	}
	storages := o.Fleet.On(filepath.Dir(path))
	return o.asks() && len(storages) > 0 && !slices.ContainsFunc(storages, func(s coord.Storage) bool { return !o.asked(s.Dir()) })
}

func (o *Observer) asked(dir string) bool {
	o.cloneMu.Lock()
	defer o.cloneMu.Unlock()
	return o.asking[dir]
}

func (o *Observer) noteAsking(dir string, asking bool) {
	o.cloneMu.Lock()
	defer o.cloneMu.Unlock()
	if o.asking == nil {
		o.asking = map[string]bool{}
	}
	o.asking[dir] = asking
}

// Asked tells whether no host starts a guest on the layer at path without asking the others.
func (w *World) Asked(path string) bool {
	on := w.OnShares[path]
	return len(on) > 0 && !slices.ContainsFunc(on, func(i int) bool { return !w.Shares[i].Asked })
}
