package chain

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A user is an image that builds on a layer.
type user struct {
	Node
	on vfs.ID
}

// A search is for the images that build on layers which are to be changed or deleted.
type search struct {
	*Store
	layers []Node            // what they may build on
	ids    map[vfs.ID]string // paths of the layers; "" for the images below, which need no look either
	names  map[string]string // paths of the layers by base name, all names that are come by included
	roots  map[string]bool   // directories, each of which is gone through by itself
	ignore []string          // files and directories of which only what is certain counts

	found []user
	lost  []dangling // images whose backing file is not here
	looks map[lookKey]bool
}

// A lookKey is a file in a directory: elsewhere a hard link means other relative names.
type lookKey struct {
	id  vfs.ID
	dir string
}

// A dangling image has a backing name that leads to nothing here.
type dangling struct{ path, name string }

// users looks for images that build on one of layers, in dirs and all directories below
// them, without layers and the images below. What could build on one, and cannot be told,
// is an error: in doubt nothing is written.
func (s *Store) users(layers, below []Node, dirs []string) ([]user, error) {
	q, err := s.newSearch(layers, below, dirs)
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		if err := q.below(dir); err != nil {
			return nil, err
		}
	}
	return q.found, q.elsewhere()
}

func (s *Store) newSearch(layers, below []Node, dirs []string) (*search, error) {
	ignore, err := absolute(s.Ignore)
	q := &search{Store: s, layers: layers, ids: map[vfs.ID]string{}, names: map[string]string{},
		roots: map[string]bool{}, ignore: ignore, looks: map[lookKey]bool{}}
	for _, n := range below {
		q.ids[n.Info.ID] = ""
	}
	for _, n := range layers {
		q.ids[n.Info.ID], q.names[filepath.Base(n.Path)] = n.Path, n.Path
	}
	for _, dir := range dirs {
		q.roots[dir] = true
	}
	return q, err
}

// below looks at the images in dir and below it.
func (q *search) below(dir string) error {
	if vfs.HoldsDevices(dir) {
		return nil // a layer is one of them; what builds on it, nobody finds by opening all devices
	}
	limits := vfs.ScanLimits()
	limits.Skip = func(dir string) bool { return q.roots[dir] }
	for f, err := range vfs.Below(q.FS, dir, limits) {
		if err != nil {
			err = q.unseen(dir, f.Path, err)
		} else {
			err = q.file(f.Path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// unseen is an error unless the user has said that nothing there matters.
func (q *search) unseen(root, path string, err error) error {
	var bound *vfs.BoundError
	switch {
	case q.ignored(path):
		return nil
	case errors.As(err, &bound):
		return because(refused(path, "there may be images on the layers concerned that would not be found; keep them in a directory of their own, or say with --ignore %s that there are none", path), err)
	case path == root:
		return err
	}
	return because(refused(path, "images in it could build on the layers concerned; if none does, say so with --ignore %s", path), err)
}

// ignored tells whether the user has named path, or a directory above it.
func (q *search) ignored(path string) bool {
	return slices.ContainsFunc(q.ignore, func(i string) bool {
		return path == i || strings.HasPrefix(path, strings.TrimSuffix(i, "/")+"/")
	})
}

// file looks at one file.
func (q *search) file(path string) error {
	f, err := q.FS.Open(path, false)
	if isNothing(err) {
		return nil
	}
	if err != nil {
		return q.doubt(path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || q.isKnown(path, info.ID) {
		return err
	}
	g, err := GlanceAt(f)
	switch {
	case err != nil:
		return q.doubt(path, err)
	case !slices.ContainsFunc(q.layers, func(n Node) bool { return g.CanBuildOn(n.Image.Format) }):
		return nil
	case g.Format == "vhd":
		return q.vhd(f)
	case g.Backing == "":
		return nil
	}
	return q.backing(f, g.Format, g.Backing)
}

// isKnown tells whether the file was looked at, or is an image of the chain; that has one
// more name, then.
func (q *search) isKnown(path string, id vfs.ID) bool {
	layer, ours := q.ids[id]
	if layer != "" {
		q.names[filepath.Base(path)] = layer
	}
	key := lookKey{id, filepath.Dir(path)}
	was := q.looks[key]
	q.looks[key] = true
	return ours || was
}

// vhd looks at the names of the parent, which are in several places.
func (q *search) vhd(f vfs.File) error {
	n, err := q.inspect(f, "vhd")
	if err != nil {
		return q.doubt(f.Path(), err)
	}
	if n.Image.Backing == "" {
		return nil
	}
	return q.backing(f, "vhd", n.Image.Backing)
}

// backing notes what the image f, which has that backing name, builds on.
func (q *search) backing(f vfs.File, format, name string) error {
	file := q.backingPath(f.Path(), name)
	if file == "" && IsRemote(name) {
		return nil
	}
	if file == "" {
		return q.refuse(f.Path(), "what it builds on is not known: %q", name)
	}
	info, err := q.FS.Stat(file)
	switch {
	case isNothing(err):
		q.lost = append(q.lost, dangling{f.Path(), file})
		return nil
	case err != nil:
		return q.doubt(f.Path(), err)
	}
	return q.builds(f, format, info.ID)
}

// builds notes that f builds on the file with that identity, if that is one of layers.
func (q *search) builds(f vfs.File, format string, on vfs.ID) error {
	layer := q.ids[on]
	if layer == "" {
		return nil
	}
	n, err := q.inspect(f, format)
	if err != nil {
		return because(refused(f.Path(), "it builds on %s, and cannot be made to build on another image", layer), err)
	}
	if !slices.ContainsFunc(q.found, func(u user) bool { return u.Info.ID == n.Info.ID && u.on == on }) {
		q.found = append(q.found, user{n, on})
	}
	return nil
}

// elsewhere refuses images whose backing file is not here, but is named like a layer:
// who uses the storage from another place may know the layer under that name.
func (q *search) elsewhere() error {
	for _, d := range q.lost {
		layer, same := q.names[filepath.Base(d.name)]
		if !same {
			continue
		}
		if err := q.refuse(d.path, "it builds on %s, which is not here; that may be %s under another mount point: rebase it, move it away, or say with --ignore %s that it is not", d.name, layer, d.path); err != nil {
			return err
		}
	}
	return nil
}

// doubt refuses a file that may build on the layers, unless the user knows better.
func (q *search) doubt(path string, err error) error {
	if q.ignored(path) {
		return nil
	}
	return because(refused(path, "it could build on the layers concerned, but cannot be read; if it does not, say so with --ignore %s", path), err)
}

func (q *search) refuse(path, format string, args ...any) error {
	if q.ignored(path) {
		return nil
	}
	return refused(path, format, args...)
}

// isNothing tells that a name leads to no file that could be an image.
func isNothing(err error) bool {
	var kind *vfs.KindError
	return errors.As(err, &kind) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) ||
		errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENAMETOOLONG)
}

// buildsOn tells whether n builds on the file with that identity.
func (s *Store) buildsOn(n Node, on vfs.ID) (bool, error) {
	file := s.backingPath(n.Path, n.Image.Backing)
	if file == "" {
		return false, nil
	}
	info, err := s.FS.Stat(file)
	if isNothing(err) {
		return false, nil
	}
	return err == nil && info.ID == on, err
}

// dirsOf lists the directories of nodes and extra, each once.
func dirsOf(nodes []Node, extra []string) []string {
	var dirs []string
	for _, n := range nodes {
		if n.Info.IsBlock {
			continue // device nodes are no place for images
		}
		dirs = append(dirs, filepath.Dir(n.Path))
	}
	dirs = append(dirs, extra...)
	slices.Sort(dirs)
	return slices.Compact(dirs)
}
