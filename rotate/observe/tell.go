package observe

import (
	"cmp"
	"context"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/rotate/coord"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// mostDoubts is how many reasons a host gives why it cannot tell all that it uses.
const mostDoubts = 8

// News is what this host tells beside what its guests use.
type News struct {
	Adopted map[string]uint64 // by UUID, guests that a person has made this host's: the epoch of that
	Ran     *coord.Ran        // a run by the clock that is over
}

// Tell puts on record, on each storage that other hosts have, too, what this host uses of it.
// Where that fails, nothing is merged until it succeeds.
func (o *Observer) Tell(ctx context.Context, w *World, news News) error {
	if o.Fleet == nil || w.Remote {
		return nil
	}
	for _, s := range o.storages(w) {
		told, some := w.told(s)
		told.Devices = o.Fleet.Devices()
		if v, err := s.View(ctx); !some && err == nil && len(v.Mine.Guests)+len(v.Mine.Images) == 0 && !v.Registered {
			continue // nothing of this host is there
		}
		err := s.Tell(ctx, o.now(), func(v coord.View) coord.Told {
			told.Ran = cmp.Or(news.Ran, v.Mine.Ran)
			told.Asks, told.Starts = w.Asks && o.asks(), coord.Unseen(v.Mine.Starts, w.Looked)
			if o.Fleet.Store != nil {
				told.Merging = o.work(w, s, v.Mine.Merging)
			}
			return coord.Claims(told, &v, news.Adopted)
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		o.noteUntold(s.Dir(), err)
	}
	return nil
}

func (o *Observer) now() time.Time {
	if o.Clock != nil {
		return o.Clock()
	}
	return time.Now()
}

// untold is why this host could not tell what it uses of a storage; "" where it could.
func (o *Observer) untold(dir string) string {
	o.cloneMu.Lock()
	defer o.cloneMu.Unlock()
	return o.failed[dir]
}

func (o *Observer) noteUntold(dir string, err error) {
	o.cloneMu.Lock()
	defer o.cloneMu.Unlock()
	if o.failed == nil {
		o.failed = map[string]string{}
	}
	delete(o.failed, dir)
	if err != nil {
		o.failed[dir] = err.Error()
	}
}

// told is what this host uses of a storage; some tells whether it is anything at all.
func (w *World) told(s coord.Storage) (t coord.Told, some bool) {
	t.Guests = []coord.Guest{}
	for i := range w.Domains {
		if g, on := w.guestOn(s, &w.Domains[i]); on {
			t.Guests = append(t.Guests, g)
		}
	}
	t.Images = w.imagesOn(s)
	some = len(t.Guests)+len(t.Images) > 0
	for i := range w.Strange {
		if x := &w.Strange[i]; x.Anywhere && len(t.Doubts) < mostDoubts {
			t.Doubts = append(t.Doubts, x.Path+": "+x.Reason)
		}
	}
	return t, some
}

// guestOn is what a domain uses of a storage; some tells whether it uses anything of it.
func (w *World) guestOn(s coord.Storage, d *host.Domain) (g coord.Guest, some bool) {
	g = coord.Guest{UUID: d.UUID, Name: d.Name, Live: d.State.Live()}
	seen := map[coord.Layer]bool{}
	active := map[string]bool{}
	for i := range d.Disks {
		if disk := &d.Disks[i]; len(disk.Chain) > 0 && !disk.ReadOnly {
			active[disk.Active().Path] = true
		}
	}
	for _, path := range layersOf(d) {
		g.Layers = append(g.Layers, w.chainOn(s, w.below(w.KeyOf(d, path), path), active[path], seen)...)
	}
	g.On = w.disksBelow(g.Layers)
	return g, len(g.Layers) > 0
}

// chainOn is what hosts call those of a layer, and of all below it, that are on the storage, but for those that were seen already.
func (w *World) chainOn(s coord.Storage, layers []placed, active bool, seen map[coord.Layer]bool) (named []coord.Layer) {
	some := false
	for at, l := range layers {
		n, ok := w.named(s, l)
		some = some || ok
		if ok && !seen[n] {
			seen[n] = true
			n.Active = active && at == 0
			named = append(named, n)
		}
	}
	if _, here := w.named(s, layers[0]); some && active && !here {
		named = append(named, coord.Layer{Path: layers[0].path, Active: true, Elsewhere: true})
	}
	return named
}

// TellGuest tells anew of one guest, and nothing else: of the others, other runs may know more. Where that fails, what was
// told before stands.
func (o *Observer) TellGuest(ctx context.Context, w *World, d *host.Domain) {
	for _, s := range o.Fleet.All() {
		g, on := w.guestOn(s, d)
		if !on {
			continue
		}
		_ = s.Tell(ctx, o.now(), func(v coord.View) coord.Told {
			told := v.Mine
			told.Guests = slices.DeleteFunc(slices.Clone(told.Guests), func(was coord.Guest) bool { return was.Left || was.UUID == d.UUID })
			told.Guests = append(told.Guests, g)
			return coord.Claims(told, &v, nil)
		})
	}
}

// TopsTold tells whether the others know which layers the domain writes to now.
func (o *Observer) TopsTold(w *World, d *host.Domain) bool {
	if o.Fleet == nil || w.Remote {
		return true
	}
	for i := range w.Shares {
		for _, s := range o.Fleet.All() {
			if s.Dir() != w.Shares[i].Dir {
				continue
			}
			told := w.Shares[i].View.Mine.Guest(d.UUID)
			if now, on := w.guestOn(s, d); on && (told == nil || !slices.Equal(tops(&now), tops(told))) {
				return false
			}
		}
	}
	return true
}

// tops are the layers that the guest writes to, in no order of their own.
func tops(g *coord.Guest) (paths []string) {
	for _, l := range g.Layers {
		if l.Active {
			paths = append(paths, l.Path)
		}
	}
	slices.Sort(paths)
	return paths
}

// A placed layer has a name, and a key in the forest.
type placed struct{ key, path string }

// below lists the layer and all that it builds on.
func (w *World) below(key, path string) []placed {
	list := []placed{{key, path}}
	if l := w.Forest.Find(key); l != nil {
		for l = l.Parent; l != nil; l = l.Parent {
			list = append(list, placed{l.Key, l.Path})
		}
	}
	return list
}

// imagesOn are layers of the storage that no domain need name: those on which images elsewhere on this
// host build, and those that guests need who were saved to a file. Other hosts see neither.
func (w *World) imagesOn(s coord.Storage) []coord.Layer {
	seen := map[coord.Layer]bool{}
	var found []coord.Layer
	for _, l := range w.Forest.Layers() {
		named, here := w.named(s, placed{l.Key, l.Path})
		here = here && !filepath.IsAbs(named.Path) // all hosts find it there
		if !savedNeeds(l) && (here || !slices.Contains(l.Keepers, "image "+l.Path)) {
			continue
		}
		for _, p := range w.below(l.Key, l.Path) {
			if named, ok := w.named(s, p); ok && !seen[named] {
				seen[named] = true
				found = append(found, named)
			}
		}
	}
	return found
}

// told tells whether another host has told that it has the guest.
func told(v *coord.View, uuid string) bool {
	return slices.ContainsFunc(v.Peers, func(p coord.Peer) bool {
		g := p.Told.Guest(uuid)
		return g != nil && !g.Left
	})
}

func savedNeeds(l *chain.Layer) bool {
	return slices.ContainsFunc(l.Keepers, func(who string) bool { return strings.HasPrefix(who, "saved state ") || movesLayer(who) })
}

// Adoptable returns the epoch with which a person can make the domain this host's, or why not. What was merged into layers that it
// writes to, as other hosts call it, too, need be in no chain.
func (o *Observer) Adoptable(w *World, d *host.Domain, down string, merged []string) (epoch uint64, err error) {
	for _, s := range o.storages(w) {
		g, on := w.guestOn(s, d)
		i := slices.IndexFunc(w.Shares, func(x Share) bool { return x.Dir == s.Dir() })
		if i < 0 || !on && !told(&w.Shares[i].View, d.UUID) {
			continue
		}
		var gone []coord.Layer
		for _, path := range merged {
			if l, here := w.named(s, placed{path, path}); here {
				gone = append(gone, l)
			}
		}
		e, err := coord.Adopt(&g, &w.Shares[i].View, down, gone)
		if err != nil {
			return 0, err
		}
		epoch = max(epoch, e)
	}
	return epoch, nil
}
