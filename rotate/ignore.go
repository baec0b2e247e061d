package rotate

import (
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// ignored is the set of files of which somebody has said that they build on no layer.
type ignored struct {
	paths map[string]bool
	ids   map[vfs.ID]bool // the same files under other names
}

func newIgnored(paths []string) *ignored {
	g := &ignored{map[string]bool{}, map[vfs.ID]bool{}}
	for _, path := range paths {
		g.paths[filepath.Clean(path)] = true
		if info, err := vfs.Stat(path); err == nil {
			g.ids[info.ID] = true
		}
	}
	return g
}

// has is asked only about what cannot be known: a header that tells of a layer counts
// whatever was said. Of what domains name nothing is ignored.
func (g *ignored) has(path string) bool {
	if g == nil {
		return false
	}
	if g.paths[filepath.Clean(path)] {
		return true
	}
	info, err := vfs.Stat(path)
	return err == nil && g.ids[info.ID]
}

// tells whether it is known what the image builds on.
func tells(path string, image *chain.Image, err error) bool {
	return err == nil && (image.Backing == "" || backingPath(&Layer{Path: path, Image: image}) != "")
}
