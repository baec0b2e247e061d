package filetree

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Copier says how files are copied, and hears what becomes of them.
type Copier struct {
	Recursive bool // directories, too; links are copied as links
	Archive   bool // owner, mode, times and extended attributes as they are
	Special   bool // device nodes, pipes and sockets, too, and, with Archive, what gives more rights to who runs a file
	Force     bool // what is there is overwritten, and written into

	Left   func(e *Entry) // a file that was left out, since it is special
	Failed func(error)    // what could not be copied
	Done   func(n int64)  // bytes that were copied
	umask  fs.FileMode
	buf    []byte
}

// ErrThere says that a file would have to be overwritten.
var ErrThere = errors.New("it is there already; --force overwrites it")

// Copy copies what is at these paths, as cp does: into dest, where that is a directory, or
// else under that name. It returns an error if nothing can be copied or ctx ends; what fails
// for one file is told to Failed.
func (t *Tree) Copy(ctx context.Context, names []string, dest string, c *Copier) error {
	c.buf, c.umask = make([]byte, 1<<20), umask()
	into, name, err := target(dest)
	if err != nil {
		return err
	}
	defer into.Close()
	if len(names) > 1 && name != "" {
		return &fs.PathError{Op: "copy", Path: dest, Err: errors.New("several files are to be copied, and it is no directory")}
	}
	for _, source := range names {
		if err := t.copyOne(ctx, source, into, name, c); err != nil {
			return err
		}
	}
	return nil
}

// umask is what the user does not give to others.
func umask() fs.FileMode {
	old := syscall.Umask(0o077)
	syscall.Umask(old)
	return fs.FileMode(old) & fs.ModePerm
}

// target opens the directory to write into. Name is "" where dest is that directory itself.
// The links on the way there are the user's own.
func target(dest string) (into *os.File, name string, err error) {
	into, err = os.OpenFile(dest, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	if err == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
		return into, "", err
	}
	if strings.HasSuffix(dest, "/") {
		return nil, "", err
	}
	into, err = os.OpenFile(filepath.Dir(dest), unix.O_DIRECTORY|unix.O_RDONLY, 0)
	return into, filepath.Base(dest), err
}

// copyOne copies what one argument names.
func (t *Tree) copyOne(ctx context.Context, source string, into *os.File, name string, c *Copier) error {
	p, err := t.find(source, !c.Recursive && !c.Archive)
	if err != nil {
		c.Failed(err)
		return nil
	}
	defer p.Close()
	if name == "" {
		name = path.Base(path.Clean("/" + source))
	}
	job := &copying{ctx, c}
	if name == "/" { // of the root, what is in it
		return job.inside(p, into, 0)
	}
	return job.entry(p, into, name, 0)
}

// A copying is one argument on its way.
type copying struct {
	ctx context.Context
	*Copier
}

// entry copies one file of any kind. It returns an error only if all is to stop.
func (c *copying) entry(p *place, into *os.File, name string, depth int) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	var err error
	switch {
	case name == "" || name == "." || name == ".." || strings.Contains(name, "/"):
		err = &fs.PathError{Op: "copy", Path: p.Path, Err: errors.New("that is no name of a file")}
	case p.IsDir():
		return c.dir(p, into, name, depth)
	case p.Mode.IsRegular():
		err = c.file(p, into, name)
	case p.Mode&fs.ModeSymlink != 0:
		err = c.make(p, into, name, func(temp string) error { return unix.Symlinkat(p.Link, int(into.Fd()), temp) })
	case c.Special && p.Mode.Type() != fs.ModeIrregular:
		err = c.make(p, into, name, func(temp string) error {
			return unix.Mknodat(int(into.Fd()), temp, typeBits(p.Mode)|0o600, int(p.device))
		})
	default:
		c.Left(&p.Entry)
	}
	return c.outcome(err)
}

// outcome tells a failure, and stops all where the user has said so.
func (c *copying) outcome(err error) error {
	if stop := c.ctx.Err(); stop != nil {
		return stop
	}
	if err != nil {
		c.Failed(err)
	}
	return nil
}

// typeBits is the type of a special file, as the system has it.
func typeBits(m fs.FileMode) uint32 {
	switch {
	case m&fs.ModeCharDevice != 0:
		return unix.S_IFCHR
	case m&fs.ModeDevice != 0:
		return unix.S_IFBLK
	case m&fs.ModeNamedPipe != 0:
		return unix.S_IFIFO
	}
	return unix.S_IFSOCK
}

// dir copies a directory. While it is written to, it is its owner's alone.
func (c *copying) dir(p *place, into *os.File, name string, depth int) error {
	switch {
	case !c.Recursive && !c.Archive:
		return c.outcome(&fs.PathError{Op: "copy", Path: p.Path, Err: errors.New("it is a directory: -r copies it with all that is in it")})
	case depth >= maxDepth:
		return c.outcome(&fs.PathError{Op: "copy", Path: p.Path, Err: errTooDeep})
	}
	there := false
	err := unix.Mkdirat(int(into.Fd()), name, 0o700)
	if errors.Is(err, unix.EEXIST) {
		there, err = true, ErrThere
		if c.Force {
			err = nil
		}
	}
	if err != nil {
		return c.outcome(&fs.PathError{Op: "write", Path: filepath.Join(into.Name(), name), Err: err})
	}
	to, err := openAt(into, name, filepath.Join(into.Name(), name), unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil { // a link, or a file
		return c.outcome(err)
	}
	defer to.Close()
	if err := c.inside(p, to, depth); err != nil {
		return err
	}
	if there && !c.Archive {
		return nil
	}
	return c.outcome(c.dress(p, to, nil, into, name))
}

// inside copies what is in a directory.
func (c *copying) inside(p *place, to *os.File, depth int) error {
	from, err := p.openDir()
	if err != nil {
		return c.outcome(err)
	}
	defer from.Close()
	stop := errors.New("")
	err = eachName(from, func(name string) error {
		as := join(p.Path, name)
		e, err := stat(from, name, as)
		if err != nil {
			return c.outcome(err)
		}
		stop = c.entry(&place{e, from, name}, to, name, depth+1)
		return stop
	})
	if err != nil && errors.Is(err, stop) {
		return err
	}
	return c.outcome(err)
}

// file copies a regular file.
func (c *copying) file(p *place, into *os.File, name string) error {
	if err := c.free(into, name); err != nil {
		return err
	}
	from, err := p.openRegular()
	if err != nil {
		return err
	}
	defer from.Close()
	return c.make(p, into, name, func(temp string) error {
		fd, err := unix.Openat(int(into.Fd()), temp, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		to := os.NewFile(uintptr(fd), filepath.Join(into.Name(), name))
		err = c.data(to, from, p.Size)
		if err == nil {
			err = c.dress(p, to, from, into, temp)
		}
		return errors.Join(err, to.Close())
	})
}

// free is an error where something is in the way that is not to be overwritten.
func (c *copying) free(into *os.File, name string) error {
	var st unix.Stat_t
	there := unix.Fstatat(int(into.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
	if c.Force || !there {
		return nil
	}
	return &fs.PathError{Op: "write", Path: filepath.Join(into.Name(), name), Err: ErrThere}
}

// make has a file made under another name, and names it.
func (c *copying) make(p *place, into *os.File, name string, write func(temp string) error) error {
	if err := c.free(into, name); err != nil {
		return err
	}
	temp := tempName()
	err := write(temp)
	if err == nil && !p.Mode.IsRegular() {
		err = c.dress(p, nil, nil, into, temp)
	}
	if err == nil {
		err = c.rename(into, temp, name)
	}
	if err == nil {
		return nil
	}
	if unix.Unlinkat(int(into.Fd()), temp, 0) == nil && errors.Is(err, fs.ErrExist) {
		err = ErrThere
	}
	var already *fs.PathError
	if errors.As(err, &already) {
		return err
	}
	return &fs.PathError{Op: "write", Path: filepath.Join(into.Name(), name), Err: err}
}

// rename names what was written. Where something is there by now, it stays, unless Force.
func (c *copying) rename(into *os.File, temp, name string) error {
	fd := int(into.Fd())
	if c.Force {
		return unix.Renameat(fd, temp, fd, name)
	}
	err := unix.Renameat2(fd, temp, fd, name, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // a file system that cannot
		if err := c.free(into, name); err != nil {
			return err
		}
		return unix.Renameat(fd, temp, fd, name)
	}
	return err
}
