package filetree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxDepth is how many directories may be in each other: each takes a file descriptor or two.
const maxDepth = 400

// errTooDeep says that a tree goes down further.
var errTooDeep = fmt.Errorf("more than %d directories in each other", maxDepth)

// A Tree is a directory that is taken for the root of a file system.
type Tree struct{ root *os.File }

// New makes a tree of an open directory, which stays the caller's.
func New(root *os.File) *Tree { return &Tree{root} }

// An Entry is a file of any kind.
type Entry struct {
	Path  string // in the tree, with / before it
	Mode  fs.FileMode
	Size  int64
	Links uint64
	UID   uint32
	GID   uint32
	Time  time.Time // of the last write
	Link  string    // where a symbolic link leads

	device            uint64 // of a device node
	accessed, changed unix.Timespec
}

// Name is the last element of the path.
func (e *Entry) Name() string { return path.Base(e.Path) }

// IsDir tells whether it is a directory.
func (e *Entry) IsDir() bool { return e.Mode.IsDir() }

// retry opens again where it was interrupted, or where somebody renamed on the way.
func retry(name string, open func() (int, error)) (*os.File, error) {
	for range 100 {
		fd, err := open()
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), name), nil
		case !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN):
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: unix.EAGAIN}
}

// A place is an entry and where to open it: a name in an open directory; "" is what is open
// itself, if only by its name (O_PATH).
type place struct {
	Entry
	dir  *os.File
	name string
}

// find finds what is at a path; a symbolic link itself, or what it leads to. Links cannot lead
// out of the tree: what is absolute begins at its root.
func (t *Tree) find(name string, follow bool) (*place, error) {
	clean := path.Clean("/" + name)
	rel := strings.TrimPrefix(clean, "/")
	if rel == "" {
		rel = "."
	}
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	if !follow && !strings.HasSuffix(name, "/") {
		how.Flags |= unix.O_NOFOLLOW
	}
	f, err := retry(clean, func() (int, error) { return unix.Openat2(int(t.root.Fd()), rel, &how) })
	if err != nil {
		return nil, err
	}
	p := &place{dir: f}
	if p.Entry, err = stat(f, "", clean); err != nil {
		f.Close()
		return nil, err
	}
	return p, nil
}

// Close lets go of the directory.
func (p *place) Close() error { return p.dir.Close() }

// stat looks at a name in dir, which it does not follow; "" is dir itself.
func stat(dir *os.File, name, as string) (Entry, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH); err != nil {
		return Entry{}, &fs.PathError{Op: "stat", Path: as, Err: err}
	}
	e := Entry{
		Path: as, Mode: modeOf(st.Mode), Size: st.Size, Links: uint64(st.Nlink), UID: st.Uid, GID: st.Gid,
		Time: time.Unix(st.Mtim.Unix()), device: st.Rdev, accessed: st.Atim, changed: st.Ctim,
	}
	if e.Mode&fs.ModeSymlink == 0 {
		return e, nil
	}
	var err error
	e.Link, err = readLink(dir, name, as)
	return e, err
}

// readLink reads where a symbolic link leads.
func readLink(dir *os.File, name, as string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), name, buf)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: as, Err: err}
	}
	return string(buf[:n]), nil
}

// modeOf turns the system's mode into Go's.
func modeOf(m uint32) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	switch m & unix.S_IFMT {
	case unix.S_IFDIR:
		mode |= fs.ModeDir
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	case unix.S_IFCHR:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFBLK:
		mode |= fs.ModeDevice
	case unix.S_IFIFO:
		mode |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		mode |= fs.ModeSocket
	case unix.S_IFREG:
	default:
		mode |= fs.ModeIrregular
	}
	return mode | specialBits(m)
}

func specialBits(m uint32) (mode fs.FileMode) {
	for bit, of := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if m&bit != 0 {
			mode |= of
		}
	}
	return mode
}

// openAt opens a name in dir, which it does not follow; "" is dir itself.
func openAt(dir *os.File, name, as string, flags int) (*os.File, error) {
	return retry(as, func() (int, error) {
		if name == "" {
			return unix.Open(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()), flags|unix.O_CLOEXEC, 0)
		}
		return unix.Openat(int(dir.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
}

// openDir opens a directory for its names.
func (p *place) openDir() (*os.File, error) {
	return openAt(p.dir, p.name, p.Path, unix.O_RDONLY|unix.O_DIRECTORY)
}

// openRegular opens a regular file: never a device, nor a pipe that nobody writes to.
func (p *place) openRegular() (*os.File, error) {
	f, err := openAt(p.dir, p.name, p.Path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: p.Path, Err: errors.New("it is no regular file any more")}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// sortedNames lists the names in a directory, in order.
func sortedNames(dir *os.File) ([]string, error) {
	all, err := dir.Readdirnames(-1)
	slices.Sort(all)
	return all, err
}

// someNames is how many names are read at a time where order does not matter.
const someNames = 1024

// eachName calls do with each name in a directory, in no order, with few in memory.
func eachName(dir *os.File, do func(name string) error) error {
	for {
		some, err := dir.Readdirnames(someNames)
		for _, name := range some {
			if err := do(name); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// join is the path of a name in a directory.
func join(dir, name string) string {
	if dir == "/" {
		return "/" + name
	}
	return dir + "/" + name
}

// Open opens a regular file for reading; a link to one is followed, within the tree.
func (t *Tree) Open(name string) (*os.File, *Entry, error) {
	p, err := t.find(name, true)
	if err != nil {
		return nil, nil, err
	}
	defer p.Close()
	if !p.Mode.IsRegular() {
		return nil, nil, &fs.PathError{Op: "open", Path: p.Path, Err: errors.New("it is no regular file")}
	}
	f, err := p.openRegular()
	return f, &p.Entry, err
}
