package observe

import (
	"cmp"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// Users of a layer are looked for in its directory and in all below it, and, where the
// storage is one of its own, on all of that: directories for each host or each tenant
// are usual there. What lies elsewhere is found in libvirt's storage pools and in the
// directories of [storage] scan.

// mostFiles is how many files a storage may hold to be searched as a whole, unless the
// Observer says otherwise: one that has more in it is not for images alone, and then
// only the directories of layers are searched.
const mostFiles = 50_000

// wideLimits are those of a search through a whole storage.
func (o *Observer) wideLimits() vfs.Limits {
	return vfs.Limits{Entries: cmp.Or(o.MostFiles, mostFiles), Depth: 32}
}

// isSystems tells whether a directory is no storage for images, whatever is mounted there.
func isSystems(dir string) bool {
	return slices.Contains([]string{"/", "/boot", "/dev", "/dev/shm", "/home", "/media", "/mnt", "/opt", "/root", "/run", "/srv", "/tmp", "/usr", "/var", "/var/lib", "/var/tmp"}, dir)
}

// storageOf returns the topmost directory of the file system that dir is on, or dir
// itself where that is one of the system's.
func storageOf(dir string) string {
	on, err := deviceOf(dir)
	top := dir
	for err == nil && top != "/" {
		dev, failed := deviceOf(filepath.Dir(top))
		if failed != nil || dev != on {
			break
		}
		top = filepath.Dir(top)
	}
	if isSystems(top) {
		return dir
	}
	return top
}

func deviceOf(dir string) (uint64, error) {
	fi, err := os.Stat(dir)
	if err != nil {
		return 0, err
	}
	return fi.Sys().(*syscall.Stat_t).Dev, nil
}

// walk looks for images wherever users of the layers could be.
func (k *looker) walk(w *World, o *Observer) {
	walked := map[string]bool{}
	storage := o.Probes.StorageOf
	if storage == nil {
		storage = storageOf
	}
	for _, dir := range slices.Sorted(maps.Keys(w.Dirs)) {
		if walked[dir] {
			continue
		}
		top := storage(dir)
		if top != dir && !k.wide(w, o, top, walked) || top == dir {
			k.below(w, dir, vfs.ScanLimits(), false, walked)
		}
	}
}

// wide looks through a whole storage, unless that has too much in it; it tells whether it
// did.
func (k *looker) wide(w *World, o *Observer, top string, walked map[string]bool) bool {
	if o.tooWide(top, k.ignore) {
		if !slices.Contains(w.TooWide, top) {
			w.TooWide = append(w.TooWide, top)
		}
		return false
	}
	return k.below(w, top, o.wideLimits(), true, walked)
}

// tooWide tells whether a storage holds too much; names are counted, no file is looked at.
// What it once found does not change.
func (o *Observer) tooWide(top string, ignore *ignored) bool {
	o.cloneMu.Lock()
	defer o.cloneMu.Unlock()
	if o.wide == nil {
		o.wide = map[string]bool{}
	}
	if _, known := o.wide[top]; !known {
		o.wide[top] = exceeds(top, o.wideLimits(), ignore)
	}
	return o.wide[top]
}

func exceeds(dir string, limits vfs.Limits, ignore *ignored) bool {
	limits.Skip = ignore.has
	for _, err := range vfs.Below(vfs.OS(), dir, limits) {
		var bound *vfs.BoundError
		if errors.As(err, &bound) {
			return true
		}
	}
	return false
}

// below looks at the images in dir and in the directories below it: each of them
// may be a user of a layer. What is not to be found out stands in doubt; of a directory
// to scan its users may build on any layer. It tells whether it came to the end: only the
// search through a whole storage is given up at its limits.
func (k *looker) below(w *World, dir string, limits vfs.Limits, whole bool, done map[string]bool) bool {
	walked := map[string]bool{dir: true}
	limits.Skip = func(sub string) bool { return k.ignore.has(sub) || vfs.HoldsDevices(sub) }
	for found, err := range vfs.Below(k.lists, dir, limits) {
		var bound *vfs.BoundError
		if errors.As(err, &bound) && whole {
			return false // it has become too much meanwhile
		}
		anywhere := k.scanned(found.Path)
		walked[filepath.Dir(found.Path)] = true // what is mounted below is not, and has its own turn
		if err != nil {
			k.strange(w, Strange{Path: found.Path, Reason: strangeDirectory(err), Anywhere: anywhere})
			continue
		}
		if w.looksAt(filepath.Dir(found.Path)) {
			w.Taken[found.Path] = true
			if host.IsOverlay(found.Path) {
				k.place(w, found.Path) // doctor looks for orphans
			}
		}
		if found.Type&fs.ModeDevice == 0 {
			k.neighbour(w, found.Path, anywhere)
		}
	}
	maps.Copy(done, walked)
	return true
}

// strange notes what stands in doubt, unless the administrator has given his word for it.
func (k *looker) strange(w *World, s Strange) {
	s.Named = k.ignore == nil
	if !k.ignore.has(s.Path) {
		w.Strange = append(w.Strange, s)
	}
}

// scanned tells whether path is in a directory of [storage] scan.
func (k *looker) scanned(path string) bool {
	return slices.ContainsFunc(k.scan, func(dir string) bool { return within(filepath.Clean(dir), path) })
}

// strangeDirectory is why not all of a directory is known.
func strangeDirectory(err error) string {
	var bound *vfs.BoundError
	if errors.As(err, &bound) {
		return bound.Reason + ": keep images apart from other files, or name what holds none in [storage] ignore"
	}
	return err.Error()
}
