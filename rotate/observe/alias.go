package observe

import (
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// aliases tell by what name the domains know a file. A directory of images can be a symbolic
// link, as after a move to a larger disk; a search through the storage then finds its
// images by another name. Hard links are names of their own: whoever made one can need it.
type aliases struct {
	dirs  map[string]string // directory → itself without symbolic links
	names map[string]string // path in such a directory → the name that is used for it
}

// newAliases takes the names that domains, intents and records have for files.
func newAliases(w *World) *aliases {
	a := &aliases{map[string]string{}, map[string]string{}}
	files := func(list []journal.File) {
		for _, f := range list {
			a.add(f.Path)
		}
	}
	w.each(func(d *host.Domain) {
		for _, path := range d.Named() {
			a.add(path)
		}
	})
	for _, in := range w.Intents {
		files(in.Files())
	}
	for _, list := range w.Released {
		files(list)
	}
	return a
}

func (a *aliases) add(path string) {
	if !filepath.IsAbs(path) {
		return
	}
	if actual := a.actual(path); a.names[actual] == "" {
		a.names[actual] = path
	}
}

// usual is the name that is used for the file at path: path itself where none is.
func (a *aliases) usual(path string) string {
	if a == nil {
		return path
	}
	if name := a.names[a.actual(path)]; name != "" {
		return name
	}
	return path
}

// actual is path in the directory that its own really is.
func (a *aliases) actual(path string) string {
	dir := filepath.Dir(path)
	to, known := a.dirs[dir]
	if !known {
		var err error
		if to, err = filepath.EvalSymlinks(dir); err != nil {
			to = dir
		}
		a.dirs[dir] = to
	}
	if to == dir && len(path) > len(dir) && path[:len(dir)] == dir {
		return path // as a rule; this is asked of every file in every directory
	}
	return filepath.Join(to, filepath.Base(path))
}
