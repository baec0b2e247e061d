package rotate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Forget gives up snapshots of a domain whose states are lost, doubtful or no longer
// listed by libvirt: their metadata goes, and their layers are on record as free, so that
// later runs merge or delete them. A snapshot that is sound is refused. It changes no image.
// The caller holds the Lock. The error is a *chain.RefusedError, ErrNoSuchSnapshot or
// ErrNoSuchDomain for what cannot be forgotten; then nothing was changed.
func (r *Rotator) Forget(ctx context.Context, domain string, snapshots []string) error {
	seen := r.Clock()
	w, err := r.Observer.Observe(ctx)
	if err != nil {
		return err
	}
	d := w.Domain(domain)
	if d == nil {
		return fmt.Errorf("%s: %w", domain, ErrNoSuchDomain)
	}
	rule := restoreRule(r.Match(w.names()), domain)
	f := &forgetting{domainRun: &domainRun{Rotator: r, rule: rule, w: w, seen: seen, start: seen}, d: d}
	if err := f.check(snapshots); err != nil {
		return err
	}
	return f.forget(ctx)
}

// A forgetting is one call of Forget.
type forgetting struct {
	*domainRun
	d     *Domain
	names []string // snapshots whose metadata goes, leaves first
	free  []intentFile
}

// check sees that each of the snapshots may be forgotten.
func (f *forgetting) check(names []string) error {
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
			f.names = append(f.names, name)
		}
	}
	return errors.Join(errs...)
}

func (f *forgetting) checkOne(name string) error {
	s := f.d.Snapshot(name)
	if s == nil {
		layers := f.unlisted(name)
		if len(layers) == 0 {
			return fmt.Errorf("%s: %s: %w", f.d.Name, name, ErrNoSuchSnapshot)
		}
		f.free = append(f.free, layers...)
		return nil
	}
	if !f.unsound(s) {
		return &chain.RefusedError{Path: name, Reason: "nothing is wrong with the snapshot: retention drops it in its turn"}
	}
	return nil
}

// unlisted returns the overlays in the domain's chains that came with a snapshot of that
// name, which libvirt no longer lists.
func (f *forgetting) unlisted(name string) []intentFile {
	var found []intentFile
	b := doctorsBuilder(f.w, f.d)
	for i := range f.d.Disks {
		for _, l := range f.d.Disks[i].Chain {
			if isOverlay(l.Path) && strings.HasSuffix(l.Path, "."+name+".qcow2") && !b.inMetadata(l.Path) {
				found = append(found, intentFile{Path: l.Path, ID: l.ID})
			}
		}
	}
	return found
}

// unsound tells whether a snapshot's state is lost, or not where its metadata says.
func (f *forgetting) unsound(s *Snapshot) bool {
	if f.w.Intact(f.d, s.Name) != nil || s.Time.After(f.Clock()) {
		return true
	}
	b := doctorsBuilder(f.w, f.d)
	return slices.ContainsFunc(s.Disks, func(sd SnapshotDisk) bool {
		return missing(f.w, f.d, &sd) != "" || b.contradicts(&sd) != ""
	})
}

// forget first puts on record what is free, then lets the metadata go.
func (f *forgetting) forget(ctx context.Context) error {
	layers := append(stillThere(f.d, f.w.Released[f.d.UUID]), f.free...)
	record := f.w.record(f.d)
	record.Snapshots = nil
	for _, x := range f.w.Lost[f.d.UUID] {
		if !slices.Contains(f.names, x.Snapshot) {
			record.Snapshots = append(record.Snapshots, x)
		}
	}
	for _, name := range f.names {
		layers = append(layers, freedBy(f.d, f.d.Snapshot(name))...)
	}
	for _, l := range f.abandoned() {
		info, err := vfs.Lstat(l.Path)
		switch file := (intentFile{Path: l.Path, ID: info.ID}); {
		case err != nil:
		case isOverlay(l.Path):
			layers = append(layers, file)
		default:
			record.Useless = append(record.Useless, file)
		}
	}
	if err := f.saveReleased(f.d, onceEach(layers)); err != nil {
		return fmt.Errorf("record of released layers: %w", err)
	}
	record.Useless = onceEach(record.Useless)
	first := record
	first.Snapshots = f.w.Lost[f.d.UUID]
	if err := saveLost(f.Observer.StateDir, f.d, first); err != nil {
		return err
	}
	for _, name := range f.names {
		if err := f.dropMetadata(ctx, f.d, f.names, name); err != nil {
			return err
		}
	}
	return saveLost(f.Observer.StateDir, f.d, record)
}

func onceEach(files []intentFile) []intentFile {
	var once []intentFile
	for _, f := range files {
		if !slices.ContainsFunc(once, func(o intentFile) bool { return o.Path == f.Path }) {
			once = append(once, f)
		}
	}
	return once
}

// abandoned lists the layers on images that a guest writes to which nobody needs but the
// snapshots that are forgotten.
func (f *forgetting) abandoned() []*chain.Layer {
	var found []*chain.Layer
	for _, x := range f.w.Destroyed(f.d) {
		base := f.w.Forest.Find(f.w.keyOf(f.d, x.Base))
		if base == nil || !slices.Contains(f.names, x.Snapshot) {
			continue
		}
		for _, c := range base.Children {
			f.abandonedFrom(c, &found)
		}
	}
	return found
}

// abandonedFrom adds l and what builds on it, and tells whether nobody needs it.
func (f *forgetting) abandonedFrom(l *chain.Layer, found *[]*chain.Layer) bool {
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
func (f *forgetting) forgets(who string) bool {
	return strings.HasPrefix(who, "image ") || slices.ContainsFunc(f.names, func(n string) bool { return who == snapshotKeeper(f.d.Name, n) })
}

// onPaper tells whether a snapshot that is forgotten names the layer.
func (f *forgetting) onPaper(path string) bool {
	return slices.ContainsFunc(f.names, func(name string) bool {
		return slices.ContainsFunc(f.d.Snapshot(name).Disks, func(sd SnapshotDisk) bool {
			return sd.Overlay == path || slices.Contains(sd.State, path)
		})
	})
}
