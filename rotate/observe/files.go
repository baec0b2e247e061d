package observe

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// A looker looks at each file once.
type looker struct {
	inspect chain.Inspector
	headers *headerCache
	stats   *statCache
	stat    func(path string) (vfs.Info, error) // what stats remembers
	lists   vfs.Lister
	spaceAt func(dir string) (vfs.Space, error)
	locks   func(path string) (string, error)
	ask     func(path string) (vfs.Use, error) // who has an image open
	seen    map[string]host.Layer              // by path; only the facts of the file are filled in
	chained map[string]bool                    // keys of the layers of all chains, under whatever name
	scan    []string                           // directories whose images may build on any layer
	aliases *aliases                           // nil until all domains were looked at
	ignore  *ignored                           // nil while files are looked at that domains name: they are in use
}

func newLooker(o *Observer) *looker {
	k := &looker{o.Inspect, o.cache(), &o.stats, vfs.Stat, &o.lists, o.Probes.SpaceAt, o.Probes.LocksStayLocal, vfs.AskUse, map[string]host.Layer{}, map[string]bool{}, o.Scan, nil, nil}
	if k.spaceAt == nil {
		k.spaceAt = vfs.SpaceAt
	}
	if o.Probes.Stat != nil {
		k.stat = o.Probes.Stat
	}
	if k.locks == nil {
		k.locks = vfs.LocksStayLocal
	}
	return k
}

// domains looks at the files of the first len(fresh) domains; those of the
// others are known.
func (k *looker) domains(w *World, fresh []host.Domain) {
	n := len(fresh)
	for i := range w.Domains {
		d := &w.Domains[i]
		w.faulty(d, host.Contain(d.Name, func() { k.domain(w, d, i < n) }))
	}
}

func (k *looker) domain(w *World, d *host.Domain, fresh bool) {
	for j := range d.Disks {
		if fresh {
			k.disk(w, d, &d.Disks[j])
			d.NameVolumes(d.Disks[j].Chain)
		} else {
			k.remember(w, &d.Disks[j])
		}
	}
}

func (k *looker) disk(w *World, d *host.Domain, disk *host.Disk) {
	for n := range disk.Chain {
		k.fill(w, &disk.Chain[n])
	}
	if !d.State.Live() {
		k.extend(w, disk)
		k.users(disk)
	}
}

// users asks for the locks on the layers of a disk that no guest of this host has open.
func (k *looker) users(disk *host.Disk) {
	for i := range disk.Chain {
		if l := &disk.Chain[i]; l.ID != (vfs.ID{}) {
			l.Use, _ = k.ask(l.Path) // where there are no locks, the engine refuses to merge
		}
	}
}

// remember notes layers that were looked at before, and where they lie: the
// images beside them may have changed.
func (k *looker) remember(w *World, disk *host.Disk) {
	for i := range disk.Chain {
		l := &disk.Chain[i]
		if !l.Kind.HasPath() {
			continue
		}
		k.places(w, l)
		k.chained[l.Key()] = true
		if _, known := k.seen[l.Path]; !known {
			k.seen[l.Path] = *l
		}
	}
}

// extend follows the headers downwards: the configuration of a domain that
// does not run need not list the whole chain.
func (k *looker) extend(w *World, disk *host.Disk) {
	for len(disk.Chain) > 0 && len(disk.Chain) < 200 {
		base := &disk.Chain[0]
		if base.Image == nil || base.Image.Backing == "" {
			return
		}
		below := host.Layer{Path: host.BackingPath(base), Format: base.Image.BackingFormat, Kind: host.KindFile}
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
func (k *looker) fill(w *World, l *host.Layer) {
	if !l.Kind.HasPath() {
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

func (k *looker) look(w *World, l *host.Layer) host.Layer {
	info, err := vfs.Stat(l.Path)
	if err != nil {
		return host.Layer{Problem: err.Error()}
	}
	w.Written[l.Path] = info.ModTime
	seen := host.Layer{ID: info.ID, Mode: uint32(info.Mode.Perm()), Links: info.Links, Allocated: info.Allocated, Kind: host.KindFile}
	if info.IsBlock {
		seen.Kind = host.KindBlock
	}
	if link, err := os.Lstat(l.Path); err == nil {
		seen.Symlink = link.Mode()&fs.ModeSymlink != 0
	}
	seen.FS = k.places(w, &host.Layer{Path: l.Path, Kind: seen.Kind, Symlink: seen.Symlink})
	k.localLocks(w, l.Path)
	k.chained[host.LayerKey(info.ID, l.Path)] = true
	image, err := k.inspect(l.Path, l.Format)
	if err != nil {
		seen.Problem = err.Error()
		return seen
	}
	seen.Image = &image
	if image.Backing != "" {
		if below, err := vfs.Stat(host.BackingPath(&host.Layer{Path: l.Path, Image: &image})); err == nil {
			seen.BackingID = below.ID
		}
	}
	return seen
}

// places notes the directory of a layer, and that of the image that it is a symbolic link
// to, and returns the file system that it is on.
func (k *looker) places(w *World, l *host.Layer) uint64 {
	fs := k.space(w, filepath.Dir(l.Path))
	if !l.Symlink || !l.Kind.IsFile() {
		return fs
	}
	to, err := filepath.EvalSymlinks(l.Path)
	if err != nil {
		return fs
	}
	return k.space(w, filepath.Dir(to))
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
