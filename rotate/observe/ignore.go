package observe

import (
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// ignored is the set of files of which somebody has said that they build on no layer, and
// of directories that hold no images.
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

// has tells whether path is in the set, or below a directory that is. It is asked only
// about what is in doubt: a header that tells of a layer counts whatever was said.
func (g *ignored) has(path string) bool {
	if g == nil {
		return false
	}
	for dir := filepath.Clean(path); len(g.paths) > 0; dir = filepath.Dir(dir) {
		if g.paths[dir] {
			return true
		}
		if dir == "/" || dir == "." {
			break
		}
	}
	if len(g.ids) == 0 {
		return false
	}
	info, err := vfs.Stat(path)
	return err == nil && g.ids[info.ID]
}
