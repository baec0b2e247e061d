package decide

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// A Forgetting says what goes when snapshots are given up.
type Forgetting struct {
	Names     []string       // snapshots whose metadata goes, leaves first
	Free      []journal.File // overlays of snapshots that libvirt no longer lists
	Abandoned []string       // layers on images that a guest writes to, which nobody else needs

	w   *observe.World
	d   *host.Domain
	now time.Time
}

// Forget decides what goes when these snapshots of d are given up: those whose states are
// lost, doubtful or no longer listed. The error is a *chain.RefusedError or
// ErrNoSuchSnapshot for one that cannot be.
func Forget(w *observe.World, d *host.Domain, snapshots []string, now time.Time) (*Forgetting, error) {
	f := &Forgetting{w: w, d: d, now: now}
	if err := f.check(snapshots); err != nil {
		return nil, err
	}
	for _, l := range f.abandoned() {
		f.Abandoned = append(f.Abandoned, l.Path)
	}
	return f, nil
}

// check sees that each of the snapshots may be forgotten.
func (f *Forgetting) check(names []string) error {
	if f.w.Remote {
		return &chain.RefusedError{Path: f.d.Name, Reason: "the connection is to another host: run virt-rotate there"}
	}
	if f.w.Intents[f.d.UUID] != nil {
		return &chain.RefusedError{Path: f.d.Name, Reason: "an interrupted run is to be finished first: virt-rotate run " + f.d.Name}
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, f.checkOne(name))
	}
	for i := range slices.Backward(f.d.Snapshots) {
		if name := f.d.Snapshots[i].Name; slices.Contains(names, name) {
			f.Names = append(f.Names, name)
		}
	}
	return errors.Join(errs...)
}

func (f *Forgetting) checkOne(name string) error {
	s := f.d.Snapshot(name)
	if s == nil {
		layers := f.unlisted(name)
		if len(layers) == 0 {
			return fmt.Errorf("%s: %s: %w", f.d.Name, name, observe.ErrNoSuchSnapshot)
		}
		f.Free = append(f.Free, layers...)
		return nil
	}
	if !f.unsound(s) {
		return &chain.RefusedError{Path: name, Reason: "nothing is wrong with the snapshot: retention drops it in its turn"}
	}
	return nil
}

// unlisted returns the overlays in the domain's chains that came with a snapshot of that
// name, which libvirt no longer lists.
func (f *Forgetting) unlisted(name string) []journal.File {
	var found []journal.File
	b := doctorsBuilder(f.w, f.d)
	for i := range f.d.Disks {
		for _, l := range f.d.Disks[i].Chain {
			if host.IsOverlay(l.Path) && strings.HasSuffix(l.Path, "."+name+".qcow2") && !b.inMetadata(l.Path) {
				found = append(found, journal.File{Path: l.Path, ID: l.ID})
			}
		}
	}
	return found
}

// unsound tells whether a snapshot's state is lost, or not where its metadata says.
func (f *Forgetting) unsound(s *host.Snapshot) bool {
	if Intact(f.w, f.d, s.Name) != nil || s.Time.After(f.now) {
		return true
	}
	b := doctorsBuilder(f.w, f.d)
	return slices.ContainsFunc(s.Disks, func(sd host.SnapshotDisk) bool {
		return missing(f.w, f.d, &sd) != "" || b.contradicts(&sd) != ""
	})
}

// abandoned lists the layers on images that a guest writes to which nobody needs but the
// snapshots that are forgotten.
func (f *Forgetting) abandoned() []*chain.Layer {
	var found []*chain.Layer
	for _, x := range f.w.Destroyed(f.d) {
		base := f.w.Forest.Find(f.w.KeyOf(f.d, x.Base))
		if base == nil || !slices.Contains(f.Names, x.Snapshot) {
			continue
		}
		for _, c := range base.Children {
			f.abandonedFrom(c, &found)
		}
	}
	return found
}

// abandonedFrom adds l and what builds on it, and tells whether nobody needs it.
func (f *Forgetting) abandonedFrom(l *chain.Layer, found *[]*chain.Layer) bool {
	unneeded := !slices.ContainsFunc(l.Keepers, func(who string) bool { return !f.forgets(who) }) && f.onPaper(l.Path)
	for _, c := range l.Children {
		unneeded = f.abandonedFrom(c, found) && unneeded
	}
	if unneeded && !slices.Contains(*found, l) {
		*found = append(*found, l)
	}
	return unneeded
}

// forgets tells whether a keeper is a snapshot that is forgotten, or the image itself.
func (f *Forgetting) forgets(who string) bool {
	return strings.HasPrefix(who, "image ") || slices.ContainsFunc(f.Names, func(n string) bool { return who == observe.SnapshotKeeper(f.d.Name, n) })
}

// onPaper tells whether a snapshot that is forgotten names the layer.
func (f *Forgetting) onPaper(path string) bool {
	return slices.ContainsFunc(f.Names, func(name string) bool {
		return slices.ContainsFunc(f.d.Snapshot(name).Disks, func(sd host.SnapshotDisk) bool {
			return sd.Overlay == path || slices.Contains(sd.State, path)
		})
	})
}
