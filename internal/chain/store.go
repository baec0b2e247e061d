package chain

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// maxDepth is how many layers a chain may have, as QEMU has it.
const maxDepth = 200

// A Format is how images of one kind are opened.
type Format struct {
	Name string
	// Probe tells whether r carries the format's magic; nil for a format
	// without one, which is never taken for granted.
	Probe func(r io.ReaderAt) (bool, error)
	// Open takes over f. What it returns is a Target if f is open for writing.
	Open func(f vfs.File, data DataOpener) (Source, error)
	// Inspect reads the header only.
	Inspect func(f vfs.File) (Image, error)
}

// A DataOpener opens the file that an image keeps its data in outside itself, for
// reading, and tells its size. The name is the one in the header, and not to be
// trusted; nil allows no such file.
type DataOpener func(name string) (r io.ReaderAt, size int64, err error)

// A Store is where images are: files, formats, and the directories to which
// backing names may lead.
type Store struct {
	FS      vfs.FS
	Formats []Format
	Allow   []string // directories; the one of an image that is named by the user is always allowed
	// Named are files that backing names may lead to, though symbolic links lead on from
	// there: the layers that a domain is known to have.
	Named []string
	// Ignore are files that build on no layer that is changed, though that cannot be seen,
	// or directories of such. What is seen to build on one counts all the same.
	Ignore []string
	// Locate, if not nil, turns a name in the header of the image at path into one that
	// is to be followed in its place, as in a repository that was copied elsewhere.
	Locate func(path, name string) string
	// Torn, if not nil, lets images be read that another process writes to, and is told of
	// each: what is read of it can be of several moments. All others are locked.
	Torn func(path string)
	// RealPath resolves symbolic links; nil where there are none.
	RealPath func(path string) (string, error)
	// Fills is a directory of the caller's in which commits and pulls note the image that they
	// fill, so that one that was cut off leaves no space lost when it is done again; ""
	// for none. It must exist by then.
	Fills string
}

// A RefusedError says why something is not done that would not be safe. Nothing
// was changed.
type RefusedError struct {
	Path   string
	Reason string
}

func (e *RefusedError) Error() string { return e.Path + ": " + e.Reason }

func refused(path, format string, args ...any) error {
	return &RefusedError{path, fmt.Sprintf(format, args...)}
}

// UnknownFormatError says that a file carries no format's magic.
type UnknownFormatError struct {
	Path   string
	Format string // of QEMU's, if it carries the magic of one that is not worked on
}

func (e *UnknownFormatError) Error() string {
	if e.Format != "" {
		return fmt.Sprintf("%s: it is a %s image, which virt-rotate does not read; qemu-img convert -f %s -O qcow2 makes one of it that it does", e.Path, e.Format, e.Format)
	}
	return e.Path + ": its format cannot be told from what is in it; name it with -f (a raw disk: -f raw)"
}

// because adds the error that a refusal rests on.
func because(refusal, err error) error { return fmt.Errorf("%w: %w", refusal, err) }

// A Node is one image of a chain, as its header has it.
type Node struct {
	Path  string
	Info  vfs.Info
	Image Image
}

// format finds the format of that name.
func (s *Store) format(path, name string) (*Format, error) {
	for i := range s.Formats {
		if f := &s.Formats[i]; f.Name == name || name == "vpc" && f.Name == "vhd" {
			return f, nil
		}
	}
	return nil, refused(path, "format %q is not one that virt-rotate reads and writes", name)
}

// probe finds the format of an image that the user has named without one.
func (s *Store) probe(f vfs.File) (*Format, error) {
	for i := range s.Formats {
		if s.Formats[i].Probe == nil {
			continue
		}
		if yes, err := s.Formats[i].Probe(f); yes || err != nil {
			return &s.Formats[i], err
		}
	}
	g, err := GlanceAt(f)
	if err != nil || g.Format == "qcow2" || g.Format == "vhd" {
		g.Format = ""
	}
	return nil, &UnknownFormatError{f.Path(), g.Format}
}

// Node looks at the image at path. Without a format it is taken for what its
// magic says.
func (s *Store) Node(path, format string) (Node, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return Node{}, err
	}
	f, err := s.FS.Open(path, false)
	if err != nil {
		return Node{}, err
	}
	n, err := s.inspect(f, format)
	return n, errors.Join(err, f.Close())
}

func (s *Store) inspect(f vfs.File, format string) (n Node, err error) {
	n.Path = f.Path()
	if n.Info, err = f.Stat(); err != nil {
		return n, err
	}
	var how *Format
	if format == "" {
		how, err = s.probe(f)
	} else {
		how, err = s.format(n.Path, format)
	}
	if err != nil {
		return n, err
	}
	n.Image, err = how.Inspect(f)
	n.Image.Format = how.Name
	if err != nil {
		return n, fmt.Errorf("%s: %w", n.Path, err)
	}
	return n, nil
}

// Chain returns the image at path and all that it builds on, base first.
func (s *Store) Chain(path, format string) ([]Node, error) {
	n, err := s.Node(path, format)
	if err != nil {
		return nil, err
	}
	roots := append([]string{filepath.Dir(n.Path)}, s.Allow...)
	return s.follow(n, roots)
}

// follow walks down from n.
func (s *Store) follow(n Node, roots []string) ([]Node, error) {
	chain := []Node{n}
	for n.Image.Backing != "" {
		below, err := s.below(n, roots)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(chain, func(c Node) bool { return c.Info.ID == below.Info.ID }) {
			return nil, refused(n.Path, "its backing file %s builds on it: the chain is a loop", below.Path)
		}
		if len(chain) == maxDepth {
			return nil, refused(n.Path, "the chain has more than %d layers", maxDepth)
		}
		chain, n = append(chain, below), below
	}
	slices.Reverse(chain)
	return chain, nil
}

// below looks at the backing file of n.
func (s *Store) below(n Node, roots []string) (Node, error) {
	path, err := s.plainPath(n, "backing file", n.Image.Backing, roots)
	if err != nil {
		return Node{}, err
	}
	if n.Image.BackingFormat == "" {
		return Node{}, refused(n.Path, "it does not say the format of its backing file %s; say it with: virt-rotate image rebase -u -b NAME -F FORMAT", path)
	}
	below, err := s.Node(path, n.Image.BackingFormat)
	if err != nil {
		return Node{}, fmt.Errorf("backing file of %s: %w", n.Path, err)
	}
	return below, sameIdentity(n, below)
}

// sameIdentity refuses a backing file that is another image than the one that n was
// made on, though it has its name.
func sameIdentity(n, below Node) error {
	if want := n.Image.BackingID; want != "" && below.Image.ID != want {
		return refused(n.Path, "it was made on the image %s, and its backing file %s is another one, %s; if that is as it should be, say it with: virt-rotate image rebase -u -b NAME -F FORMAT", want, below.Path, below.Image.ID)
	}
	return nil
}

// plainPath is the file that a name in the header of n means. Names come from
// whoever wrote the image: only plain paths count, and only in allowed directories.
func (s *Store) plainPath(n Node, what, name string, roots []string) (string, error) {
	if s.Locate != nil {
		name = s.Locate(n.Path, name)
	}
	path, ok := PlainPath(n.Path, name)
	if !ok {
		return "", refused(n.Path, "its %s is %q, which is not a plain path", what, name)
	}
	actual := path
	if s.RealPath != nil {
		var err error
		if actual, err = s.RealPath(path); err != nil {
			return "", fmt.Errorf("%s of %s: %w", what, n.Path, err)
		}
	}
	for _, root := range roots {
		if s.within(root, actual) {
			return path, nil
		}
	}
	if s.named(path, actual) {
		return path, nil
	}
	return "", refused(n.Path, "its %s %s is outside the directories that are allowed; --allow %s allows it", what, path, filepath.Dir(actual))
}

// named tells whether the caller has named the file itself, by this or by another name.
func (s *Store) named(path, actual string) bool {
	if slices.ContainsFunc(s.Named, func(name string) bool { return filepath.Clean(name) == path }) {
		return true
	}
	return s.RealPath != nil && slices.ContainsFunc(s.Named, func(name string) bool {
		to, err := s.RealPath(name)
		return err == nil && to == actual
	})
}

func (s *Store) within(root, path string) bool {
	root, err := filepath.Abs(root)
	if err == nil && s.RealPath != nil {
		root, err = s.RealPath(root)
	}
	if err != nil {
		return false
	}
	rel, err := filepath.Rel(root, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// PlainPath returns the file that a backing name in the image at path means, if
// it is a plain path and not a protocol of QEMU's.
func PlainPath(path, name string) (string, bool) {
	if name == "" || strings.ContainsRune(name, 0) {
		return "", false
	}
	if i := strings.IndexByte(name, ':'); i >= 0 && !strings.Contains(name[:i], "/") {
		return "", false
	}
	if filepath.IsAbs(name) {
		return filepath.Clean(name), true
	}
	return filepath.Join(filepath.Dir(path), name), true
}

// access says how an image is opened.
type access int

const (
	toRead access = iota
	toWrite
)

// writing lets one image be written to, and all others only be read.
func writing(one Node) func(Node) access {
	return func(n Node) access {
		if n.Info.ID == one.Info.ID {
			return toWrite
		}
		return toRead
	}
}

// opened are images that are open and locked, by node.
type opened struct {
	sources map[vfs.ID]Source
}

// openAll locks and opens nodes in the order of device and inode, so that two
// processes cannot wait for each other, and sees that each is as it was.
func (s *Store) openAll(nodes []Node, how func(Node) access) (*opened, error) {
	o := &opened{map[vfs.ID]Source{}}
	sorted := slices.Clone(nodes)
	slices.SortFunc(sorted, func(a, b Node) int { return cmpID(a.Info.ID, b.Info.ID) })
	for _, n := range sorted {
		if err := s.openOne(o, n, how(n)); err != nil {
			return nil, errors.Join(err, o.Close())
		}
	}
	return o, nil
}

func cmpID(a, b vfs.ID) int {
	if c := cmp.Compare(a.Dev, b.Dev); c != 0 {
		return c
	}
	return cmp.Compare(a.Ino, b.Ino)
}

// A sharedFS knows of file systems that other hosts have, too.
type sharedFS interface {
	// LocksStayLocal tells why other hosts do not see the locks on a file; "" if they do.
	LocksStayLocal(path string) (reason string, err error)
}

// lockable tells beforehand that an image will not be locked for writing, or that a guest
// of another host that has it open would not be seen.
func (s *Store) lockable(nodes ...Node) error {
	shared, ok := s.FS.(sharedFS)
	if !ok {
		return nil
	}
	for _, n := range nodes {
		reason, err := shared.LocksStayLocal(n.Path)
		if err != nil {
			return err
		}
		if reason != "" {
			return &vfs.LocalLocksError{Path: n.Path, Reason: reason}
		}
	}
	return nil
}

func (s *Store) openOne(o *opened, n Node, how access) error {
	if o.sources[n.Info.ID] != nil {
		return refused(n.Path, "it is there twice, under two names")
	}
	f, err := s.FS.Open(n.Path, how == toWrite)
	if err != nil {
		return err
	}
	src, err := s.openLocked(f, n, how)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	o.sources[n.Info.ID] = src
	return nil
}

func (s *Store) openLocked(f vfs.File, n Node, how access) (Source, error) {
	mode := vfs.LockRead
	if how == toWrite {
		mode = vfs.LockWrite
	}
	if err := s.Lock(f, mode); err != nil {
		return nil, err
	}
	if err := s.sameAs(f, n); err != nil {
		return nil, err
	}
	format, err := s.format(n.Path, n.Image.Format)
	if err != nil {
		return nil, err
	}
	src, err := format.Open(f, func(name string) (io.ReaderAt, int64, error) { return s.openData(n, name) })
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.Path, err)
	}
	return src, nil
}

// Lock locks an image, unless it is only to be read, and Torn allows that it is written to.
func (s *Store) Lock(f vfs.File, mode vfs.LockMode) error {
	err := f.Lock(mode)
	var busy *vfs.BusyError
	if mode == vfs.LockRead && s.Torn != nil && errors.As(err, &busy) {
		s.Torn(f.Path())
		return nil
	}
	return err
}

// openData opens and locks the file that n keeps its data in. It must be in a
// directory that was allowed by name: an image could hand out any file beside it.
func (s *Store) openData(n Node, name string) (io.ReaderAt, int64, error) {
	path, err := s.plainPath(n, "data file", name, s.Allow)
	if err != nil {
		return nil, 0, err
	}
	f, err := s.FS.Open(path, false)
	if err != nil {
		return nil, 0, err
	}
	var size int64
	if err = s.Lock(f, vfs.LockRead); err == nil {
		size, err = f.Size()
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, size, nil
}

// target returns the open image of n, which was opened for writing.
func (o *opened) target(n Node) (Target, error) {
	t, ok := o.sources[n.Info.ID].(Target)
	if !ok {
		return nil, refused(n.Path, "images of format %s cannot be changed", n.Image.Format)
	}
	return t, nil
}

// of returns the open images of nodes.
func (o *opened) of(nodes ...Node) []Source {
	var out []Source
	for _, n := range nodes {
		out = append(out, o.sources[n.Info.ID])
	}
	return out
}

// Close closes all, which gives the locks back.
func (o *opened) Close() error {
	var errs []error
	for _, s := range o.sources {
		errs = append(errs, s.Close())
	}
	clear(o.sources)
	return errors.Join(errs...)
}
