package rotate

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

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

// strangeRemedy says what an administrator can do about it.
func strangeRemedy(s *Strange) string {
	if s.Named {
		return "mend it, let it be read, or take it out of the domain that names it"
	}
	if s.Names != "" {
		return "if it is an image of another host on a file of ours, leave it; else mend its backing name (virt-rotate image rebase -u), move it away, or name it in [storage] ignore"
	}
	return "mend it, let it be read, move it away, or name it in [storage] ignore"
}

// doubtOf says that the image may build on the layer at path.
func doubtOf(s *Strange, path string) string {
	return fmt.Sprintf("%s may build on %s: %s", s.Path, path, s.Reason)
}

// strangeBeside returns what could build on the layer at path, or nil.
func (w *World) strangeBeside(path string) *Strange {
	for i := range w.Strange {
		if s := &w.Strange[i]; s.mayBuildOn(path) {
			return s
		}
	}
	return nil
}

// doubtAbout returns what could build on layer k of disk, or on the one below it, nil if
// nothing could. The layer below is written to by a merge, the layer itself goes.
func (b *builder) doubtAbout(disk *Disk, k int) (*Strange, string) {
	for _, l := range []*Layer{&disk.Chain[k-1], &disk.Chain[k]} {
		if s := b.w.strangeBeside(b.origin(l.Path)); s != nil {
			return s, l.Path
		}
	}
	return nil, ""
}

// doubts refuses the merges that nothing but a doubt about images forbids: what keeps
// it up will not go away by itself. It tells each image once.
func (b *builder) doubts(trial *builder) []Refusal {
	var found []Refusal
	told := map[string]bool{}
	for _, disks := range [][]Disk{trial.disks, trial.branches} {
		for i := range disks {
			for k := 1; k < len(disks[i].Chain); k++ {
				why, strange := trial.obstacleAt(&disks[i], k)
				if strange != nil && !told[strange.Path] {
					told[strange.Path] = true
					found = append(found, Refusal{CodeDoubt, strange.Path, "nothing is merged into or out of what it could build on: " + why + "; " + strangeRemedy(strange)})
				}
			}
		}
	}
	return found
}
