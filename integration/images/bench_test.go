package images_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/integration/images"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/qcow2"
)

// A bench is a tree of images on disk, with what qemu-img has read in them.
type bench struct {
	dir, tmp string // of the images; beside it
	fills    string // where commits and pulls note what they fill
	pristine string
	patterns string
	tree     *images.Tree
	rng      *rand.Rand
	was      []*images.Content          // of each layer's disk
	files    map[string]*images.Content // of each file, by name
	snaps    map[string]*images.Content // of each internal snapshot, by "file@snapshot"
	round    int                        // how many operations have been followed
	leaky    bool                       // one of them was interrupted
}

// newBench makes the images below root, and sees whether our reader agrees with
// qemu-img on them.
func newBench(ctx context.Context, root, patterns string, t *images.Tree, rng *rand.Rand) (*bench, error) {
	b := &bench{dir: filepath.Join(root, "images"), tmp: root, pristine: filepath.Join(root, "pristine"), patterns: patterns, tree: t, rng: rng,
		fills: filepath.Join(root, "fills")}
	if err := os.Mkdir(b.fills, 0o755); err != nil {
		return nil, err
	}
	if err := t.Build(ctx, b.dir, patterns); err != nil {
		return nil, fmt.Errorf("making the images: %w", err)
	}
	if err := b.look(ctx); err != nil {
		return nil, fmt.Errorf("before any operation: %w", err)
	}
	return b, copyTree(b.dir, b.pristine)
}

// copyTree makes to a copy of the directory from, holes and links included.
func copyTree(from, to string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		target := to + strings.TrimPrefix(path, from)
		switch {
		case err != nil:
			return err
		case e.IsDir():
			return os.Mkdir(target, 0o755)
		case e.Type() == fs.ModeSymlink:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		}
		c, err := images.FileContent(path)
		if err != nil {
			return err
		}
		return c.WriteFile(target)
	})
}

// restore brings the images back to what they were.
func (b *bench) restore() error {
	for i := range b.tree.Layers {
		l := &b.tree.Layers[i]
		if l.Device == "" {
			continue
		}
		if err := b.files[l.Name].WriteDevice(l.Device); err != nil {
			return err
		}
	}
	if err := errors.Join(os.RemoveAll(b.fills), os.Mkdir(b.fills, 0o755)); err != nil {
		return err
	}
	return copyTree(b.pristine, b.dir)
}

func (b *bench) path(i int) string { return filepath.Join(b.dir, b.tree.Layers[i].Name) }

func (b *bench) store(fs vfs.FS) *chain.Store {
	s := images.Store(fs, b.dir)
	s.Allow = append(s.Allow, "/dev")
	s.Fills = b.fills
	return s
}

// dirs are the directories with images.
func (b *bench) dirs() []string {
	var dirs []string
	for i := range b.tree.Layers {
		dirs = append(dirs, filepath.Dir(b.path(i)))
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// look reads everything.
func (b *bench) look(ctx context.Context) (err error) {
	b.snaps = map[string]*images.Content{}
	if b.files, err = b.readFiles(); err != nil {
		return err
	}
	for i := range b.tree.Layers {
		l := &b.tree.Layers[i]
		c, err := images.QemuRead(ctx, b.path(i), l.Format, b.tmp)
		if err != nil {
			return err
		}
		b.was = append(b.was, c)
		if err := b.readOurs(b.path(i), l.Format, c); err != nil {
			return err
		}
		if l.Format == "qcow2" {
			if err := checkOurs(b.path(i), images.CheckResult{}); err != nil {
				return err
			}
			if err := b.lookSnapshots(ctx, i); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) readOurs(path, format string, want *images.Content) error {
	got, err := images.Read(b.store(vfs.OS()), path, format, b.rng)
	if err != nil {
		return fmt.Errorf("our reader: %w", err)
	}
	return images.Same("our reader of "+path, want, got)
}

// lookSnapshots reads the internal snapshots of layer i.
func (b *bench) lookSnapshots(ctx context.Context, i int) error {
	if !slices.ContainsFunc(b.tree.Layers[i].Steps, func(s string) bool { return strings.HasPrefix(s, "!snapshot") }) && b.tree.Layers[i].CopyOf == images.None {
		return nil // that saves a process
	}
	name := b.tree.Layers[i].Name
	info, err := images.QemuInfo(ctx, b.path(i), "qcow2")
	if err != nil {
		return err
	}
	for _, s := range info.Snapshots {
		c, err := images.QemuReadSnapshot(ctx, b.path(i), s.Name, b.tmp)
		if err != nil && !errors.Is(err, images.ErrNotReverted) {
			return err
		}
		b.snaps[name+"@"+s.Name] = c
	}
	return nil
}

// snapshots counts the internal snapshots of layer i.
func (b *bench) snapshots(i int) (n int) {
	for name := range b.snaps {
		if strings.HasPrefix(name, b.tree.Layers[i].Name+"@") {
			n++
		}
	}
	return n
}

func (b *bench) readFiles() (map[string]*images.Content, error) {
	files := map[string]*images.Content{}
	err := filepath.WalkDir(b.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(b.dir, path)
		if err != nil {
			return err
		}
		files[name], err = images.FileContent(path)
		return err
	})
	return files, err
}

// A state is what is to be on disk.
type state struct {
	disks   map[string]*images.Content // what the guest reads in each image; nil: anything
	format  map[string]string
	on      map[string]string          // what each image builds on
	names   map[string]string          // and how it names that, where it is new
	changed map[string]bool            // files that may have changed
	snaps   map[string]*images.Content // of internal snapshots that are new, by "file@snapshot"
	leaks   bool                       // leaked clusters are no fault
	// interrupted: journals and unfinished files are no fault, images in gone may be
	// there or not, and names may be the old or the new ones.
	interrupted bool
	gone        map[string]bool
}

// before is the state that the images are made in.
func (b *bench) before() *state {
	s := &state{
		disks: map[string]*images.Content{}, format: map[string]string{}, on: map[string]string{},
		names: map[string]string{}, changed: map[string]bool{}, gone: map[string]bool{}, leaks: b.leaky,
	}
	for i := range b.tree.Layers {
		l := &b.tree.Layers[i]
		s.disks[l.Name], s.format[l.Name] = b.was[i], l.Format
		if l.On != images.None {
			s.on[l.Name] = b.tree.Layers[l.On].Name
		}
	}
	return s
}

func (s *state) remove(name string) {
	delete(s.disks, name)
	delete(s.on, name)
}

// verify compares the disk with the state. Only what may be affected is read.
func (b *bench) verify(ctx context.Context, s *state) error {
	now, err := b.readFiles()
	if err != nil {
		return err
	}
	touched, err := b.touched(s, now)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(s.disks)) {
		if now[name] == nil {
			continue
		}
		if err := b.verifyOne(ctx, s, name, touched); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) verifyOne(ctx context.Context, s *state, name string, touched map[string]bool) error {
	if (touched[name] || s.changed[name] && !s.interrupted) && s.format[name] == "qcow2" {
		if err := b.checkImage(ctx, s, name); err != nil {
			return err
		}
	}
	want := s.disks[name]
	if want == nil || !s.affected(name, touched) {
		return nil
	}
	path := filepath.Join(b.dir, name)
	got, err := images.QemuRead(ctx, path, s.format[name], b.tmp)
	if err != nil {
		return err
	}
	if err := images.Same("qemu-img's reading of "+name, want, got); err != nil {
		return err
	}
	return b.readOurs(path, s.format[name], want)
}

// touched compares the files: those that are there, and those that have changed.
func (b *bench) touched(s *state, now map[string]*images.Content) (map[string]bool, error) {
	touched := map[string]bool{}
	for name, c := range now {
		_, known := s.disks[name]
		if !known && !s.interrupted {
			return nil, fmt.Errorf("%s is there", name)
		}
		was := b.files[name]
		if !known || was != nil && was.Diff(c) < 0 {
			continue
		}
		touched[name] = true
		if !s.changed[name] {
			return nil, fmt.Errorf("%s has changed at byte %d", name, was.Diff(c))
		}
	}
	for name := range s.disks {
		if now[name] == nil && !s.gone[name] {
			return nil, fmt.Errorf("%s is not there", name)
		}
	}
	return touched, nil
}

// affected tells whether the disk of an image is made of a touched file.
func (s *state) affected(name string, touched map[string]bool) bool {
	for ; name != ""; name = s.on[name] {
		if touched[name] {
			return true
		}
	}
	return false
}

// checkImage wants the structure without fault, the names right and the snapshots as
// they were.
func (b *bench) checkImage(ctx context.Context, s *state, name string) error {
	path := filepath.Join(b.dir, name)
	r, err := images.QemuCheck(ctx, path)
	if err != nil {
		return err
	}
	if r.Errors != 0 || r.Corruptions != 0 || r.Leaks != 0 && !s.leaks {
		return fmt.Errorf("qemu-img check of %s: %+v", name, r)
	}
	if err := checkOurs(path, r); err != nil {
		return err
	}
	if old := b.tree.Find(name); old != images.None && b.snapshots(old) == 0 && len(s.snaps) == 0 && s.on[name] == b.before().on[name] {
		return nil // nothing more to see: that saves a process
	}
	info, err := images.QemuInfo(ctx, path, "qcow2")
	if err != nil {
		return err
	}
	if err := b.checkNames(s, name, info); err != nil {
		return err
	}
	for _, snap := range info.Snapshots {
		want := b.snaps[name+"@"+snap.Name]
		if want == nil {
			want = s.snaps[name+"@"+snap.Name]
		}
		if want == nil {
			continue
		}
		got, err := images.QemuReadSnapshot(ctx, path, snap.Name, b.tmp)
		if err != nil {
			return err
		}
		if err := images.Same("snapshot "+snap.Name+" of "+name, want, got); err != nil {
			return err
		}
	}
	return nil
}

func checkOurs(path string, want images.CheckResult) error {
	f, err := vfs.OS().Open(path, false)
	if err != nil {
		return err
	}
	r, err := qcow2.Check(f, qcow2.RepairNone)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if got := (images.CheckResult{Errors: r.CheckErrors, Corruptions: r.Corruptions, Leaks: r.Leaks}); got != want {
		return fmt.Errorf("our check of %s: %+v, qemu-img's: %+v: %v", path, got, want, r.Problems)
	}
	return nil
}

func (b *bench) checkNames(s *state, name string, info images.Info) error {
	on := s.on[name]
	if s.interrupted {
		return nil
	}
	if on == "" {
		if info.Backing != "" {
			return fmt.Errorf("%s builds on %s", name, info.Backing)
		}
		return nil
	}
	got := info.Backing
	if want, ok := s.names[name]; ok && got != want {
		return fmt.Errorf("%s names %q, want %q", name, got, want)
	}
	if !filepath.IsAbs(got) {
		got = filepath.Join(b.dir, filepath.Dir(name), got)
	}
	if want := filepath.Join(b.dir, on); filepath.Clean(got) != want || info.BackingFormat != s.format[on] {
		return fmt.Errorf("%s builds on %s (%s), want %s (%s)", name, got, info.BackingFormat, want, s.format[on])
	}
	return nil
}
