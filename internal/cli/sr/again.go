package sr

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/convert"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
)

func againFlag() cli.Flag {
	return &cli.BoolFlag{Name: "again", Usage: "convert only what has changed since images were made in DEST"}
}

// againLock keeps two runs with --again from one directory.
const againLock = ".virt-rotate-convert.lock"

// A warm conversion knows what was converted into its directory before, and keeps that on
// record.
type warm struct {
	*images.Run
	convert.Again
	all, rest []*convert.Conversion // the rest are those that need something
	lock      io.Closer
	from      string
	renamed   []renamedImage
}

// newWarm looks at what is in the directory. Without --again nothing may be there under the
// names of the new images.
func newWarm(r *images.Run, repo *vhdbridge.Repository, groups []vhdbridge.Group, left []vhdbridge.Spoiled, all []*convert.Conversion, d *domain) (*warm, error) {
	w := &warm{Run: r, all: all, rest: all, from: repo.Dir}
	dir := r.String("to")
	if r.Bool("again") && !r.Bool("dry-run") {
		if _, err := vfs.OS().ReadDir(dir); err == nil {
			if w.lock, err = vfs.AcquireRunLock(filepath.Join(dir, againLock)); err != nil {
				return nil, err
			}
		}
	}
	record, err := convert.ReadRecord(r.Store.FS, dir)
	if err == nil {
		w.Again = convert.Again{Store: r.Store, Record: record, Sources: map[*convert.Conversion]convert.Source{}, Whole: !r.IsSet("vdi") && !anyWrong(left),
			Exact: d.wants(), Covered: d.covered(groups)}
		if d.host != nil {
			w.Defined = d.host.Has
		}
		w.sources(repo, groups)
		err = w.plan()
	}
	if err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// anyWrong tells whether a node was left out for what is wrong with it: an image of it may be
// the last that is sound.
func anyWrong(left []vhdbridge.Spoiled) bool {
	return slices.ContainsFunc(left, func(s vhdbridge.Spoiled) bool { return !s.Fine() })
}

// sources tells what each image is to be made of. What cannot be told is like nothing, and
// its image made anew.
func (w *warm) sources(repo *vhdbridge.Repository, groups []vhdbridge.Group) {
	of, views := map[string]*vhdbridge.Group{}, map[*vhdbridge.Node]string{}
	for i := range groups {
		of[groups[i].Node.Path] = &groups[i]
	}
	for _, c := range w.all {
		path := c.Source().Path
		g := of[path]
		if g == nil {
			continue
		}
		s := convert.Source{From: path, Hidden: g.Node.Hidden}
		id, _, err := repo.Identity(w.Run.Store.FS, g.Node, w.Clock())
		if err == nil {
			s.Node = id
			s.Sum, err = repo.Sources(w.Run.Store.FS, g, w.Clock())
		}
		if err != nil {
			s.Sum = ""
		}
		views[g.Node] = s.Sum
		if s.Empty = g.Empty(); s.Empty && s.Sum != "" && views[g.Parent] != "" {
			s.View = views[g.Parent]
			views[g.Node] = s.View
		}
		w.Sources[c] = s
	}
}

func (w *warm) plan() error {
	if w.Bool("again") {
		if err := w.Plan(w.all); err != nil {
			return err
		}
		for _, c := range w.Again.Moved(w.all) {
			w.renamed = append(w.renamed, renamedImage{c.Path, filepath.Join(filepath.Dir(c.Path), w.Record.Images[filepath.Base(c.Path)].Was)})
		}
		w.Hint = ": what was begun is removed, or has the name of an image that is not finished; the same command goes on"
		w.rest = slices.DeleteFunc(slices.Clone(w.all), w.Kept)
		return nil
	}
	for _, c := range w.all {
		if err := convert.CheckBegun(w.Run.Store.FS, c.Path); err != nil {
			return err
		}
		if err := convert.CheckFree(w.Run.Store.FS, c.Path); err != nil {
			return err
		}
	}
	return nil
}

func (w *warm) close() {
	if w.lock != nil {
		_ = w.lock.Close() // nothing is left to do with the error
	}
}

// worth tells whether anything can be made.
func (w *warm) worth() bool {
	return w.Bool("again") || slices.ContainsFunc(w.rest, func(c *convert.Conversion) bool { return c.Err == nil })
}

// renews tells whether images that are there are written to.
func (w *warm) renews() bool {
	return slices.ContainsFunc(w.rest, func(c *convert.Conversion) bool { return c.Renew != nil })
}

// convert makes what needs to be made.
func (w *warm) convert(v *convert.Converter) error {
	if err := w.Begin(w.rest); err != nil {
		return err
	}
	v.Naming = func(sound []*convert.Conversion) error { return w.Naming(w.rest, sound) }
	if err := v.ConvertSound(w.Ctx(), w.rest); err != nil {
		return err
	}
	return w.Done(w.rest)
}

// kept are the images that need nothing.
func (w *warm) kept() (paths []string) {
	for _, c := range w.all {
		if w.Kept(c) {
			paths = append(paths, c.Path)
		}
	}
	return paths
}

// removed are the images that others take the place of.
func (w *warm) removed() (paths []string) {
	for _, name := range w.Removed() {
		paths = append(paths, filepath.Join(w.String("to"), name))
	}
	return paths
}

// tellKept tells of images that were there before.
func (w *warm) tellKept(c *converted) {
	if w.Bool("quiet") || w.String("output") == "json" {
		return
	}
	if len(c.kept) > 0 {
		fmt.Fprintf(w.Out, "%s as they were: nothing of what they were made of has changed\n", term.Plural(len(c.kept), "image"))
	}
	if len(c.renamed) > 0 {
		fmt.Fprintf(w.Out, "other names for %s\n", term.Plural(len(c.renamed), "image"))
	}
	verb := "removed"
	if w.Bool("dry-run") {
		verb = "remove"
	}
	for _, path := range c.removed {
		fmt.Fprintf(w.Out, "%s %s: other images have what it has\n", verb, term.Printable(path))
	}
}

// tellIdle tells of images that nothing is converted into any more.
func (w *warm) tellIdle(left []vhdbridge.Spoiled) {
	if !w.Bool("again") || w.IsSet("vdi") {
		return
	}
	part := w.IsSet("vm") || w.Exact // of the repository: other guests' images stay what they are
	for _, name := range w.Idle(w.all, w.from) {
		if part && !w.isBelow(w.Record.Images[name].Backing) {
			continue
		}
		from := filepath.Base(w.Record.Images[name].From)
		if !slices.ContainsFunc(left, func(s vhdbridge.Spoiled) bool { return s.Node == from }) {
			fmt.Fprintf(w.Err, "virt-rotate: %s: nothing is converted into it any more; it can be deleted once no image builds on it\n", term.Printable(filepath.Join(w.String("to"), name)))
		}
	}
}

// isBelow tells whether an image of that name is one of those that are converted.
func (w *warm) isBelow(name string) bool {
	return slices.ContainsFunc(w.all, func(c *convert.Conversion) bool { return filepath.Base(c.Path) == name })
}
