package rotate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A looker looks at each file once.
type looker struct {
	inspect chain.Inspector
	headers *headerCache
	spaceAt func(dir string) (vfs.Space, error)
	locks   func(path string) (string, error)
	ask     func(path string) (vfs.Use, error) // who has an image open
	seen    map[string]Layer                   // by path; only the facts of the file are filled in
	chained map[string]bool                    // keys of the layers of all chains, under whatever name
	scan    []string                           // directories whose images may build on any layer
	ignore  *ignored                           // nil while files are looked at that domains name: they are in use
}

func newLooker(o *Observer) *looker {
	k := &looker{o.Inspect, o.cache(), o.Probes.SpaceAt, o.Probes.LocksStayLocal, vfs.AskUse, map[string]Layer{}, map[string]bool{}, o.Scan, nil}
	if k.spaceAt == nil {
		k.spaceAt = vfs.SpaceAt
	}
	if k.locks == nil {
		k.locks = vfs.LocksStayLocal
	}
	return k
}

// domains looks at the files of the first len(fresh) domains; those of the
// others are known.
func (k *looker) domains(w *World, fresh []Domain) {
	n := len(fresh)
	for i := range w.Domains {
		d := &w.Domains[i]
		w.faulty(d, Contain(d.Name, func() { k.domain(w, d, i < n) }))
	}
}

func (k *looker) domain(w *World, d *Domain, fresh bool) {
	for j := range d.Disks {
		if fresh {
			k.disk(w, d, &d.Disks[j])
		} else {
			k.remember(w, &d.Disks[j])
		}
	}
}

func (k *looker) disk(w *World, d *Domain, disk *Disk) {
	for n := range disk.Chain {
		k.fill(w, &disk.Chain[n])
	}
	if !d.State.Live() {
		k.extend(w, disk)
		k.users(disk)
	}
}

// users asks for the locks on the layers of a disk that no guest of this host has open.
func (k *looker) users(disk *Disk) {
	for i := range disk.Chain {
		if l := &disk.Chain[i]; l.ID != (vfs.ID{}) {
			l.Use, _ = k.ask(l.Path) // where there are no locks, the engine refuses to merge
		}
	}
}

// remember notes layers that were looked at before, and where they lie: the
// images beside them may have changed.
func (k *looker) remember(w *World, disk *Disk) {
	for i := range disk.Chain {
		l := &disk.Chain[i]
		if l.Kind != "file" && l.Kind != "block" {
			continue
		}
		k.space(w, filepath.Dir(l.Path))
		k.chained[l.Key()] = true
		if _, known := k.seen[l.Path]; !known {
			k.seen[l.Path] = *l
		}
	}
}

// extend follows the headers downwards: the configuration of a domain that
// does not run need not list the whole chain.
func (k *looker) extend(w *World, disk *Disk) {
	for len(disk.Chain) > 0 && len(disk.Chain) < 200 {
		base := &disk.Chain[0]
		if base.Image == nil || base.Image.Backing == "" {
			return
		}
		below := Layer{Path: backingPath(base), Format: base.Image.BackingFormat, Kind: "file"}
		if below.Path == "" {
			disk.Problem = k.unknownBacking(w, base.Path, base.Image.Backing, true)
			return
		}
		k.dangling(w, base.Path, below.Path)
		if below.Format == "" { // a problem of this disk, but whose base it is counts all the same
			disk.Problem = fmt.Sprintf("%s does not name the format of its backing file", base.Path)
		}
		k.fill(w, &below)
		disk.Chain = slices.Insert(disk.Chain, 0, below)
	}
}

// fill adds what the file at l.Path shows.
func (k *looker) fill(w *World, l *Layer) {
	if l.Kind != "file" && l.Kind != "block" {
		return
	}
	seen, ok := k.seen[l.Path]
	if !ok {
		seen = k.look(w, l)
		k.seen[l.Path] = seen
	}
	l.ID, l.FS, l.Mode, l.Image, l.BackingID, l.Problem = seen.ID, seen.FS, seen.Mode, seen.Image, seen.BackingID, seen.Problem
	l.Links, l.Symlink = seen.Links, seen.Symlink
	l.Allocated = seen.Allocated
	if seen.Kind != "" {
		l.Kind = seen.Kind
	}
	if seen.Image != nil {
		l.Size = seen.Image.VirtualSize
	}
}

func (k *looker) look(w *World, l *Layer) Layer {
	info, err := vfs.Stat(l.Path)
	if err != nil {
		return Layer{Problem: err.Error()}
	}
	w.Written[l.Path] = info.ModTime
	seen := Layer{ID: info.ID, Mode: uint32(info.Mode.Perm()), Links: info.Links, Allocated: info.Allocated, Kind: "file"}
	if info.IsBlock {
		seen.Kind = "block"
	}
	if link, err := os.Lstat(l.Path); err == nil {
		seen.Symlink = link.Mode()&fs.ModeSymlink != 0
	}
	seen.FS = k.space(w, filepath.Dir(l.Path))
	k.localLocks(w, l.Path)
	k.chained[layerKey(info.ID, l.Path)] = true
	image, err := k.inspect(l.Path, l.Format)
	if err != nil {
		seen.Problem = err.Error()
		return seen
	}
	seen.Image = &image
	if image.Backing != "" {
		if below, err := vfs.Stat(backingPath(&Layer{Path: l.Path, Image: &image})); err == nil {
			seen.BackingID = below.ID
		}
	}
	return seen
}

// localLocks notes whether locks in the directory of a layer reach other hosts. Where that
// cannot be told, it is told when a lock is taken.
func (k *looker) localLocks(w *World, path string) {
	dir := filepath.Dir(path)
	if _, known := w.LocalLocks[dir]; !known {
		w.LocalLocks[dir], _ = k.locks(path)
	}
}

// space returns the file system of dir and notes its space.
func (k *looker) space(w *World, dir string) uint64 {
	if fs, ok := w.Dirs[dir]; ok {
		return fs
	}
	s, err := k.spaceAt(dir)
	if err != nil {
		return 0
	}
	w.Dirs[dir], w.Spaces[s.FS] = s.FS, s
	return s.FS
}

// neighbours looks at the images beside all layers and in scan: each of them
// is a user of its backing file. Files that an intent is about to delete and
// that no domain uses do not count.
func (k *looker) neighbours(w *World, o *Observer) {
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
	w.each(func(d *Domain) { k.elsewhereOf(w, d) })
}

func (k *looker) elsewhereOf(w *World, d *Domain) {
	for _, what := range d.Unknown {
		w.Strange = append(w.Strange, Strange{Path: "domain " + d.Name, Reason: what, Anywhere: true})
	}
	if d.Problem != "" {
		for _, path := range d.named() {
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
			if path := stateLayer(d, &sd); path != "" && !d.uses(path) {
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
	info, err := vfs.Stat(path)
	var kind *vfs.KindError
	if errors.As(err, &kind) || err == nil && k.chained[layerKey(info.ID, path)] {
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
	if !exists(name) {
		k.strange(w, Strange{Path: path, Names: filepath.Base(name),
			Reason: fmt.Sprintf("it builds on %s, which is not here, and a layer here has that name: another host may have this storage in that place", name)})
	}
}

// neighbour looks at an image and at what it builds on. A file that went away
// meanwhile uses nothing.
func (k *looker) neighbour(w *World, path string, anywhere bool) {
	if _, known := k.seen[path]; known || w.leftover(path) {
		return
	}
	k.seen[path] = Layer{Path: path}
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
	name := backingPath(&Layer{Path: path, Image: &image})
	if name == "" {
		k.unknownBacking(w, path, image.Backing, anywhere)
		return
	}
	k.dangling(w, path, name)
	below, l := w.Forest.Add(w.key(name), name), w.Forest.Add(w.key(path), path)
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
