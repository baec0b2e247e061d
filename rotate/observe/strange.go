package observe

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// HasLayerNamed tells whether a layer of a domain has that file name.
func (w *World) HasLayerNamed(name string) bool {
	return slices.ContainsFunc(w.Domains, func(d host.Domain) bool {
		return slices.ContainsFunc(d.Disks, func(disk host.Disk) bool {
			return slices.ContainsFunc(disk.Chain, func(l host.Layer) bool { return filepath.Base(l.Path) == name })
		})
	})
}

// A Strange image, or directory, could build on a layer: it cannot be read, or names a
// file that is not here.
type Strange struct {
	Path, Reason string
	Named        bool     // by a domain: no word of the administrator takes it out
	Anywhere     bool     // what it builds on may be in any directory
	Dirs         []string // where the other images of its directory have what they build on
	Names        string   // if not "": it builds on a file with this name that is not here, which another host may have elsewhere
}

// mayBuildOn tells whether the image could build on the layer at path. An image that
// cannot be read is taken to build on what is in its own directory, in one above, or where
// the images beside it have their backing files.
func (s *Strange) mayBuildOn(path string) bool {
	if s.Names != "" {
		return s.Names == filepath.Base(path)
	}
	dir := filepath.Dir(path)
	return s.Anywhere || within(dir, s.Path) || slices.Contains(s.Dirs, dir)
}

// reach notes for strange images where the images beside them have their backing files.
func (w *World) reach() {
	if len(w.Strange) == 0 {
		return
	}
	dirs := map[string][]string{}
	for _, l := range w.Forest.Layers() {
		if l.Parent == nil {
			continue
		}
		from, to := filepath.Dir(l.Path), filepath.Dir(l.Parent.Path)
		if from != to && !slices.Contains(dirs[from], to) {
			dirs[from] = append(dirs[from], to)
		}
	}
	for i := range w.Strange {
		w.Strange[i].Dirs = dirs[filepath.Dir(w.Strange[i].Path)]
	}
}

// within tells whether path is dir or below it.
func within(dir, path string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// StrangeBeside returns what could build on the layer at path, or nil.
func (w *World) StrangeBeside(path string) *Strange {
	for i := range w.Strange {
		if s := &w.Strange[i]; s.mayBuildOn(path) {
			return s
		}
	}
	return nil
}
