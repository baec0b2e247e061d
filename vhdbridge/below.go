package vhdbridge

import (
	"io/fs"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A Place is a directory with nodes.
type Place struct {
	Dir   string
	Nodes int
}

// mostPlaces bounds the search for repositories.
const mostPlaces = 100_000

// Below finds the repositories in the directories of dir, and in the directories of these.
// What cannot be read is none. Nothing is opened.
func Below(fsys vfs.FS, dir string) ([]Place, error) {
	list, err := fsys.List(dir, 0, mostPlaces)
	if err != nil {
		return nil, err
	}
	var found []Place
	for _, e := range list.Entries {
		if e.Type == fs.ModeDir {
			found = append(found, placesIn(fsys, filepath.Join(dir, e.Name), 1)...)
		}
	}
	return found, nil
}

func placesIn(fsys vfs.FS, dir string, deeper int) []Place {
	list, err := fsys.List(dir, 0, mostPlaces)
	if err != nil {
		return nil
	}
	p := Place{Dir: dir}
	var found []Place
	for _, e := range list.Entries {
		if _, ok := parseName(e.Name); ok && e.Type != fs.ModeDir {
			p.Nodes++
		}
		if e.Type == fs.ModeDir && deeper > 0 {
			found = append(found, placesIn(fsys, filepath.Join(dir, e.Name), deeper-1)...)
		}
	}
	if p.Nodes > 0 {
		found = append([]Place{p}, found...)
	}
	return found
}
