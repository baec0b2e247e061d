package vfstest

import (
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// tree is all names, by cleaned path.
type tree struct {
	live    map[string]*inode // as programs see them
	disk    map[string]*inode // as they are on the disk
	pending []dirOp           // from disk to live, oldest first
}

// entry is a name and what it leads to, nil when it is removed.
type entry struct {
	name string
	ino  *inode
}

// dirOp is what happens to one or two names at once.
type dirOp []entry

func newTree() tree {
	return tree{live: map[string]*inode{}, disk: map[string]*inode{}}
}

func (t *tree) change(op ...entry) {
	dirOp(op).apply(t.live)
	t.pending = append(t.pending, op)
}

func (o dirOp) apply(names map[string]*inode) {
	for _, e := range o {
		if e.ino == nil {
			delete(names, e.name)
		} else {
			names[e.name] = e.ino
		}
	}
}

func (o dirOp) touches(dirs map[string]bool) bool {
	return slices.ContainsFunc(o, func(e entry) bool { return dirs[filepath.Dir(e.name)] })
}

func (o dirOp) addDirs(dirs map[string]bool) {
	for _, e := range o {
		dirs[filepath.Dir(e.name)] = true
	}
}

// isDir tells whether name is above a file.
func (t *tree) isDir(name string) bool {
	if name == "/" || name == "." {
		return true
	}
	for path := range t.live {
		if strings.HasPrefix(path, name+"/") {
			return true
		}
	}
	return false
}

// in lists what is in dir, sorted: files, and directories that are above a file.
func (t *tree) in(dir string) []vfs.Entry {
	types := map[string]fs.FileMode{}
	for path := range t.live {
		rest, below := strings.CutPrefix(path, strings.TrimSuffix(dir, "/")+"/")
		name, _, deeper := strings.Cut(rest, "/")
		switch {
		case below && deeper:
			types[name] = fs.ModeDir
		case below:
			types[name] = 0
		}
	}
	var entries []vfs.Entry
	for _, name := range slices.Sorted(maps.Keys(types)) {
		entries = append(entries, vfs.Entry{Name: name, Type: types[name]})
	}
	return entries
}

// commit makes the operations in dir durable, and what came before them in the
// other directory that a rename touches.
func (t *tree) commit(dir string) {
	dirs := map[string]bool{dir: true}
	var done, left []dirOp
	for _, op := range slices.Backward(t.pending) {
		if op.touches(dirs) {
			op.addDirs(dirs)
			done = append(done, op)
		} else {
			left = append(left, op)
		}
	}
	for _, op := range slices.Backward(done) {
		op.apply(t.disk)
	}
	slices.Reverse(left)
	t.pending = left
}

// afterCrash returns the names on the disk, after the first so many of the
// operations that were pending in each directory.
func (t *tree) afterCrash(f *fate) map[string]*inode {
	names, stopped := maps.Clone(t.disk), map[string]bool{}
	for _, op := range t.pending {
		if survives := f.survives(); survives && !op.touches(stopped) {
			op.apply(names)
		} else {
			op.addDirs(stopped)
		}
	}
	return names
}
