package observe

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// neighbours looks at the images beside all layers and in scan: each of them
// is a user of its backing file. Files that an intent is about to delete and
// that no domain uses do not count.
func (k *looker) neighbours(w *World, o *Observer) {
	k.aliases = newAliases(w)
	k.elsewhere(w)
	k.ignore = newIgnored(o.Ignore)
	for _, dir := range o.Overlays {
		k.space(w, dir)
	}
	for _, dir := range o.Scan {
		if k.space(w, dir); !w.looksAt(dir) {
			w.Strange = append(w.Strange, Strange{Path: dir, Reason: "[storage] scan names it, but it cannot be looked at", Anywhere: true})
		}
	}
	for _, dir := range w.Pools { // one that is not there has no images
		k.space(w, dir)
	}
	k.walk(w, o)
	w.reach()
}

func (w *World) looksAt(dir string) bool {
	_, known := w.Dirs[dir]
	return known
}

// unknownBacking notes an image whose backing name means no file that could
// be told, unless it is surely storage of another kind.
func (k *looker) unknownBacking(w *World, path, name string, anywhere bool) string {
	reason := fmt.Sprintf("what file its backing name %q means is not known", name)
	if !chain.IsRemote(name) {
		k.strange(w, Strange{Path: path, Reason: reason, Anywhere: anywhere})
	}
	return path + ": " + reason
}

// elsewhere looks at the files of domains that are in no running chain, and
// notes images in chains of domains that do not run whose header cannot be
// read: it is not known where those chains go on.
func (k *looker) elsewhere(w *World) {
	w.each(func(d *host.Domain) { k.elsewhereOf(w, d) })
}

func (k *looker) elsewhereOf(w *World, d *host.Domain) {
	for _, what := range d.Unknown {
		w.Strange = append(w.Strange, Strange{Path: "domain " + d.Name, Reason: what, Anywhere: true})
	}
	if d.Problem != "" {
		for _, path := range d.Named() {
			k.lone(w, path)
		}
	}
	for _, path := range d.Elsewhere {
		k.lone(w, path)
	}
	for j := range d.Disks {
		for _, path := range d.Disks[j].Inactive {
			k.lone(w, path)
		}
		if c := d.Disks[j].Chain; !d.State.Live() && len(c) > 0 && c[0].Problem != "" && (chain.Glance{Format: c[0].Format}).CanBuildOn("qcow2") && exists(c[0].Path) {
			k.strange(w, Strange{Path: c[0].Path, Reason: c[0].Problem})
		}
	}
	for j := range d.Snapshots {
		for _, sd := range d.Snapshots[j].Disks {
			if path := host.StateOf(d, &sd); path != "" && !d.Uses(path) {
				k.lone(w, path)
			}
		}
	}
}

// lone looks at an image that a domain names outside its running chains.
func (k *looker) lone(w *World, path string) {
	if _, known := k.seen[path]; known || !filepath.IsAbs(path) || !exists(path) || !mayBeImage(path) {
		return
	}
	k.space(w, filepath.Dir(path))
	k.neighbour(w, path, false)
}

// mayBeImage tells whether path is none of what is no image: a directory, a pipe.
func mayBeImage(path string) bool {
	_, err := vfs.Stat(path)
	var kind *vfs.KindError
	return !errors.As(err, &kind)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// stranger inspects an image that is in no chain. One that is, under another
// name, and what is no file at all, are as good as nothing.
func (k *looker) stranger(w *World, path string) (chain.Image, error) {
	info, err := k.glance(path)
	var kind *vfs.KindError
	if errors.As(err, &kind) || err == nil && k.chained[host.LayerKey(info.ID, path)] {
		return chain.Image{}, nil
	}
	if err != nil {
		return chain.Image{}, err
	}
	w.Written[path] = info.ModTime
	if w.useless(path, info) {
		return chain.Image{}, nil
	}
	return k.headers.inspect(path, info, k.inspect)
}

// known tells whether the image is on a branch of a domain: its snapshots keep it, or
// it is on record as free.
func (w *World) known(path string) bool {
	for _, layers := range w.Released {
		for _, f := range layers {
			if f.Path == path && f.ID.Ino == w.Left[path].ID.Ino {
				return true
			}
		}
	}
	for i := range w.Domains {
		for j := range w.Domains[i].Snapshots {
			for _, sd := range w.Domains[i].Snapshots[j].Disks {
				if slices.Contains(sd.State, path) {
					return true
				}
			}
		}
	}
	return false
}

// dangling notes an image whose backing file is not here: on another host, which has
// the storage in another place, the name may mean one of our layers.
func (k *looker) dangling(w *World, path, name string) {
	if !k.leads(name) {
		k.strange(w, Strange{Path: path, Names: filepath.Base(name),
			Reason: fmt.Sprintf("it builds on %s, which is not here, and a layer here has that name: another host may have this storage in that place", name)})
	}
}

// neighbour looks at an image and at what it builds on. A file that went away
// meanwhile uses nothing.
func (k *looker) neighbour(w *World, path string, anywhere bool) {
	path = k.aliases.usual(path)
	if _, known := k.seen[path]; known || w.IsLeftover(path) {
		return
	}
	k.seen[path] = host.Layer{Path: path}
	image, err := k.stranger(w, path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		k.strange(w, Strange{Path: path, Reason: err.Error(), Anywhere: anywhere})
		return
	}
	if image.Backing == "" {
		k.savedState(w, path, image.Format)
		return
	}
	name := host.BackingPath(&host.Layer{Path: path, Image: &image})
	if name == "" {
		k.unknownBacking(w, path, image.Backing, anywhere)
		return
	}
	k.dangling(w, path, name)
	below, l := w.Forest.Add(w.Key(name), name), w.Forest.Add(w.Key(path), path)
	if !w.known(path) {
		l.Keep("image " + path)
	}
	if w.Forest.Link(l, below) != nil {
		// By another account it builds on something else, as a branch of another domain
		// does that is merged just now. Whichever is true: neither may change.
		below.Keep("image " + path)
	}
	k.neighbour(w, name, anywhere)
}
