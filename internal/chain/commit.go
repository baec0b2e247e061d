package chain

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// CommitRequest says what to merge: the layers above Base up to Top go into Base.
type CommitRequest struct {
	Top, Format string
	Base        string // "" means the one below Top
	Keep        bool   // the merged files stay
	// Scan are further directories whose images count, with all below them; the
	// directories of the layers and those of Store.Allow are looked through anyhow.
	Scan []string
	// Unrecorded leaves no journal: the caller keeps a record of its own, and
	// deletes the merged files itself. It implies Keep.
	Unrecorded bool
	// Children, if not nil, are all images on Top: no directory is searched, for the
	// caller knows who builds on what.
	Children []string
	// Record is called once the base has all of the data, before any image is told,
	// in place of the journal. It goes with Unrecorded.
	Record func() error
	// Unmeasured leaves out how much there is to move: a rehearsal.
	Unmeasured bool
}

// A Merge is the plan of a commit: pure data.
type Merge struct {
	Below    []Node // what Base builds on, lowest first
	Base     Node
	Gone     []Node // the layers that are merged, lowest first; the last is the top
	Children []Node // images on the top: they will build on Base
	Keep     bool
	Scan     []string // further directories that were looked at for children

	unrecorded bool
	known      bool // nobody else than Children builds on the layers
	record     func() error
	Amount
}

// Top is the highest layer that is merged.
func (m *Merge) Top() Node { return m.Gone[len(m.Gone)-1] }

// PlanCommit looks at the chain and at all images beside it, and refuses what
// would change what another image reads.
func (s *Store) PlanCommit(ctx context.Context, r CommitRequest) (*Merge, error) {
	chain, err := s.Chain(r.Top, r.Format)
	if err != nil {
		return nil, err
	}
	m, err := s.cut(chain, r.Base)
	if err != nil {
		return nil, err
	}
	m.Keep, m.unrecorded, m.record = r.Keep || r.Unrecorded, r.Unrecorded, r.Record
	if err := s.whereToLook(m, r); err != nil {
		return nil, err
	}
	if err := errors.Join(m.check(), s.removable(m), s.lockable(append(slices.Clone(m.Gone), m.Base)...)); err != nil {
		return nil, err
	}
	if r.Children != nil {
		err = s.takeChildren(m, r.Children)
	} else {
		err = s.findChildren(m)
	}
	if err != nil {
		return nil, err
	}
	return m, s.measureCommit(ctx, m, r.Unmeasured)
}

// whereToLook notes where images on the layers may be.
func (s *Store) whereToLook(m *Merge, r CommitRequest) error {
	scan, err := absolute(r.Scan)
	if err != nil {
		return err
	}
	allow, err := absolute(s.Allow)
	if err != nil {
		return err
	}
	for _, dir := range allow { // one that is not there allows nothing
		if _, err := s.FS.List(dir, 0, 0); err == nil {
			scan = append(scan, dir)
		} else if !isNothing(err) {
			return err
		}
	}
	m.Scan = scan
	return nil
}

func absolute(dirs []string) ([]string, error) {
	var out []string
	for _, d := range dirs {
		abs, err := filepath.Abs(d)
		if err != nil {
			return nil, err
		}
		out = append(out, abs)
	}
	return out, nil
}

// cut divides a chain at its base.
func (s *Store) cut(chain []Node, base string) (*Merge, error) {
	top := len(chain) - 1
	if top == 0 {
		return nil, refused(chain[top].Path, "it has no backing file to be merged into")
	}
	at := top - 1
	if base != "" {
		var err error
		if at, err = s.indexOf(chain, base); err != nil {
			return nil, err
		}
	}
	if at == top {
		return nil, refused(chain[top].Path, "it cannot be merged into itself")
	}
	return &Merge{Below: chain[:at], Base: chain[at], Gone: chain[at+1:]}, nil
}

// indexOf finds the image at path in the chain, under whatever name.
func (s *Store) indexOf(chain []Node, path string) (int, error) {
	info, err := s.FS.Stat(path)
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(chain, func(n Node) bool { return n.Info.ID == info.ID })
	if i < 0 {
		return 0, refused(path, "it is not in the chain of %s", chain[len(chain)-1].Path)
	}
	return i, nil
}

// check refuses what would be lost with the merged files.
func (m *Merge) check() error {
	for _, n := range m.Gone {
		switch i := n.Image; {
		case i.Corrupt:
			return refused(n.Path, "it is marked as corrupt: check and repair it first")
		case i.Snapshots > 0 && !m.Keep:
			return refused(n.Path, "it has %d internal snapshots, which would be lost with it", i.Snapshots)
		case i.DataFile && !m.Keep:
			return refused(n.Path, "its data is in an external file, which would be left over; keep both (--keep)")
		case n.Info.Links > 1 && !n.Info.IsBlock && !m.Keep:
			return refused(n.Path, "it has %d names (hard links)", n.Info.Links)
		}
	}
	return nil
}

// removable refuses merged files that could not be deleted: their names are
// symbolic links, which others may use to find the file.
func (s *Store) removable(m *Merge) error {
	for _, n := range m.Gone {
		_, err := s.FS.Lstat(n.Path)
		var kind *vfs.KindError
		switch {
		case m.Keep || n.Info.IsBlock || err == nil:
		case errors.As(err, &kind):
			return refused(n.Path, "it is a %s, and would not be deleted; name the file itself, or keep it", kind.Kind)
		default:
			return err
		}
	}
	return nil
}

// all lists every image that the merge has to do with.
func (m *Merge) all() []Node {
	nodes := slices.Clone(m.Below)
	nodes = append(nodes, m.Base)
	nodes = append(nodes, m.Gone...)
	return append(nodes, m.Children...)
}

// measureCommit fills in how much there is to move. Nothing is locked for longer
// than that takes, and only as for reading.
func (s *Store) measureCommit(ctx context.Context, m *Merge, rehearsal bool) error {
	o, err := s.openAll(append(append(slices.Clone(m.Below), m.Base), m.Gone...), func(Node) access { return toRead })
	if err != nil {
		return err
	}
	f, err := m.fill(o, nil)
	if err == nil {
		err = f.canKeepBitmaps(m.Top().Image.VirtualSize)
	}
	if err == nil {
		err = errors.Join(writable(f.to), f.checkResize(m.Top()))
	}
	if err == nil && !rehearsal {
		f.size = m.Top().Image.VirtualSize
		m.Amount, err = f.measure(ctx)
	}
	return errors.Join(err, o.Close())
}

// writable asks a target that is not prepared whether Prepare would refuse it by
// its header.
func writable(to Target) error {
	w, ok := to.(interface{ Writable() error })
	if !ok {
		return nil
	}
	if err := w.Writable(); err != nil {
		return because(refused(pathOf(to), "it cannot be changed"), err)
	}
	return nil
}

// A resizer tells beforehand what Resize would refuse; it need not be prepared.
type resizer interface{ CheckResize(size int64) error }

// checkResize refuses a target that cannot become as large or small as top.
func (f *fill) checkResize(top Node) error {
	to, ok := f.to.(resizer)
	if !ok || top.Image.VirtualSize == f.to.Image().VirtualSize {
		return nil
	}
	if err := to.CheckResize(top.Image.VirtualSize); err != nil {
		return because(refused(pathOf(f.to), "it cannot become as large as %s", top.Path), err)
	}
	return nil
}

// fill is what is to be brought into the base.
func (m *Merge) fill(o *opened, done func(int64)) (*fill, error) {
	to, err := o.target(m.Base)
	if err != nil {
		return nil, err
	}
	from, err := NewStack(o.of(m.Gone...)...)
	if err != nil {
		return nil, err
	}
	view, err := NewStack(o.of(append(append(slices.Clone(m.Below), m.Base), m.Gone...)...)...)
	if err != nil {
		return nil, err
	}
	return &fill{
		to: to, from: from, except: NoLayer, view: view, below: m.belowSize(), done: done, merged: o.of(m.Gone...),
	}, nil
}

// belowSize is how much of what is below shows through holes of the base.
func (m *Merge) belowSize() int64 {
	if len(m.Below) == 0 {
		return 0
	}
	return m.Below[len(m.Below)-1].Image.VirtualSize
}

// Commit carries out a plan. A crash at any moment, or cancelling, leaves every
// image that stays as the guest sees it; the same commit goes on, after Recover if the base had all of the top.
func (s *Store) Commit(ctx context.Context, m *Merge, done func(n int64)) error {
	return s.CommitAnd(ctx, m, done, func() error { return nil })
}

// CommitAnd is Commit with something that is to be done once the images are as
// they are to be, and while all of them are still locked.
func (s *Store) CommitAnd(ctx context.Context, m *Merge, done func(n int64), then func() error) error {
	how := func(n Node) access {
		if n.Info.ID == m.Base.Info.ID || slices.ContainsFunc(m.Children, func(c Node) bool { return c.Info.ID == n.Info.ID }) {
			return toWrite
		}
		return toRead
	}
	o, err := s.openAll(m.all(), how)
	if err != nil {
		return err
	}
	err = s.commit(ctx, m, o, done)
	if err == nil {
		err = then()
	}
	if err == nil {
		err = s.finish(m) // while they are locked: nobody can have begun to use them
	}
	return errors.Join(err, o.Close())
}

// commit does all but delete the merged files. Everything is locked.
func (s *Store) commit(ctx context.Context, m *Merge, o *opened, done func(int64)) error {
	if err := s.sameChildren(m); err != nil {
		return err
	}
	if err := m.checkRelink(o); err != nil {
		return err
	}
	f, err := m.fill(o, done)
	if err != nil {
		return err
	}
	if err := s.fillNoted(ctx, f, m.Base, m.Top().Image.VirtualSize); err != nil {
		return err
	}
	if err := s.recordMerged(m); err != nil {
		return err
	}
	return s.relink(m, o)
}

// begin gives the target the size, and its bitmaps what they are to say, before data is written.
func (f *fill) begin(ctx context.Context, size int64) error {
	if err := f.sized(ctx, size); err != nil {
		return err
	}
	return f.keepBitmaps(ctx)
}

// sized prepares the target and gives it the size.
func (f *fill) sized(ctx context.Context, size int64) error {
	if err := f.canKeepBitmaps(size); err != nil {
		return err
	}
	if err := f.to.Prepare(); err != nil {
		return fmt.Errorf("%s: %w", pathOf(f.to), err)
	}
	if f.prepared != nil {
		if err := f.prepared(); err != nil {
			return err
		}
	}
	return f.resize(ctx, size)
}

// recordMerged puts on record that the base has all of the data.
func (s *Store) recordMerged(m *Merge) error {
	switch {
	case m.record != nil:
		return m.record()
	case m.unrecorded:
		return nil
	}
	return s.markMerged(m)
}

// resize gives the target the size of what is merged into it. Below the old end
// of a smaller base nothing new may show through.
func (f *fill) resize(ctx context.Context, size int64) error {
	old := f.to.Image().VirtualSize
	if size == old {
		return nil
	}
	if size > old && old < f.below {
		if err := f.fillEdge(ctx, old); err != nil {
			return err
		}
	}
	if err := f.to.Resize(size, f.below); err != nil {
		return fmt.Errorf("%s: resize from %d to %d: %w", pathOf(f.to), old, size, err)
	}
	f.from.Forget()
	f.view.Forget()
	return nil
}

// fillEdge brings what shows through a hole at the end of the disk into the
// target: the granule is about to be longer than the disk was.
func (f *fill) fillEdge(ctx context.Context, old int64) error {
	cut := old &^ (f.to.Granule() - 1)
	if cut == old {
		return nil
	}
	x, err := f.to.Extent(cut, old)
	if err != nil || x.Kind != Hole && x.End() == old {
		return err
	}
	r := &round{read: []Piece{{Offset: cut, Length: old - cut}}, bytes: old - cut}
	return f.carryOut(ctx, r)
}

// An identifier is a target that also notes the identity of its backing file.
type identifier interface {
	// CheckParent tells beforehand what SetParent would refuse.
	CheckParent(name, format, id string) error
	// SetParent is SetBacking with the Image.ID of the image of that name.
	SetParent(name, format, id string) error
}

// A link is what a header is to say of its backing file.
type link struct{ name, format, id string }

// linkTo names what n is, or "" for nothing.
func linkTo(name string, n Node) link { return link{name, n.Image.Format, n.Image.ID} }

// setLink lets t build on another image.
func setLink(t Target, n Node, l link) error {
	var err error
	if i, ok := t.(identifier); ok {
		err = i.SetParent(l.name, l.format, l.id)
	} else {
		err = t.SetBacking(l.name, QEMUName(l.format))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", n.Path, err)
	}
	return nil
}

// QEMUName is how QEMU calls a format, which is how its images name it.
func QEMUName(format string) string {
	if format == "vhd" {
		return "vpc"
	}
	return format
}

// A renamer tells beforehand what SetBacking would refuse.
type renamer interface {
	CheckBacking(name, format string) error
}

// checkBacking refuses what could not be relinked in the end.
func checkBacking(t Target, n Node, l link) error {
	var err error
	if i, ok := t.(identifier); ok {
		err = i.CheckParent(l.name, l.format, l.id)
	} else if r, ok := t.(renamer); ok {
		err = r.CheckBacking(l.name, QEMUName(l.format))
	}
	if err != nil {
		return because(refused(n.Path, "it cannot be made to build on %q", l.name), err)
	}
	return nil
}

// checkRelink sees whether the children will take the name of the base.
func (m *Merge) checkRelink(o *opened) error {
	for _, c := range m.Children {
		t, err := o.target(c)
		if err == nil {
			err = checkBacking(t, c, linkTo(BackingName(c, m.Base.Path), m.Base))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// relink lets the children build on the base.
func (s *Store) relink(m *Merge, o *opened) error {
	for _, c := range m.Children {
		t, err := o.target(c)
		if err != nil {
			return err
		}
		if err := setLink(t, c, linkTo(BackingName(c, m.Base.Path), m.Base)); err != nil {
			return err
		}
	}
	return nil
}

// BackingName is how an image names the file at path: relatively if it does so
// now, else absolutely.
func BackingName(n Node, path string) string {
	if filepath.IsAbs(n.Image.Backing) || n.Image.Backing == "" {
		return path
	}
	rel, err := filepath.Rel(filepath.Dir(n.Path), path)
	if err != nil {
		return path
	}
	return rel
}

// finish deletes the merged files, the highest first, and forgets the journal.
func (s *Store) finish(m *Merge) error {
	if !m.Keep {
		for _, n := range slices.Backward(m.Gone) {
			if info, err := s.FS.Stat(n.Path); err == nil && info.IsBlock {
				continue // a device is not ours to remove
			}
			err := s.FS.RemoveExact(n.Path, n.Info.ID)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	if m.unrecorded {
		return nil
	}
	return s.dropJournal(journalPath(m.Top().Path))
}
