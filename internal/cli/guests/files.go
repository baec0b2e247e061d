package guests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/filetree"
	"github.com/virt-rotate/virt-rotate/internal/guestfs"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// filesHelp tells in help texts how files are got at.
const filesHelp = `The guest may run, and is not asked. libguestfs (package guestfish, or libguestfs of the
Fedora family) looks at the disks in a virtual machine of its own, which takes some
seconds with KVM: it knows partitions, LVM, RAID, LUKS (--key), NTFS, btrfs, and keeps
a file system that was made to attack a kernel away from this host. It mounts what the
guest's own system would; where it finds none, the only file system, or the one that
--filesystem names. --host-kernel is faster, and for guests that you trust: the host
mounts the partition (nbdfuse, package libnbd-bin or nbdfuse), read-only, without
replaying a journal; it does no LVM, RAID or LUKS.

`

// filesFlags are those of all commands that look at files.
func filesFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "disk", Usage: "only the disk with this `TARGET`, such as vda, is looked at; may be repeated"},
		&cli.StringFlag{Name: "filesystem", Usage: "the file system called `NAME`: vda1, or vg/root of LVM"},
		&cli.StringSliceFlag{Name: "key", Usage: "`KEY` of LUKS, as libguestfs has it: ID:file:PATH, ID:key:SECRET; may be repeated"},
		&cli.BoolFlag{Name: "host-kernel", Usage: "let this host's kernel mount the disk of a guest that you trust, without libguestfs"},
	}
}

// A guestPath is DOMAIN@SNAPSHOT:/PATH.
type guestPath struct{ domain, snapshot, path string }

// parseGuestPath takes one apart. The snapshot begins after the last @; names of domains have
// no slash.
func parseGuestPath(text string) (guestPath, error) {
	name, inside, hasPath := strings.Cut(text, ":/")
	at := strings.LastIndex(name, "@")
	if at <= 0 || at == len(name)-1 || strings.Contains(name, "/") {
		return guestPath{}, term.Usagef("%s: want DOMAIN@SNAPSHOT:/PATH, such as web@latest:/etc", term.Printable(text))
	}
	p := guestPath{name[:at], name[at+1:], "/"}
	if hasPath {
		p.path = path.Clean("/" + inside)
		if strings.HasSuffix(inside, "/") && p.path != "/" {
			p.path += "/"
		}
	} else if strings.Contains(p.snapshot, ":") {
		return guestPath{}, term.Usagef("%s: a path in a guest begins with /, as in web@latest:/etc", term.Printable(text))
	}
	return p, nil
}

// images are the disks of a state, for guestfs.
func (s *readState) images() []guestfs.Disk {
	disks := make([]guestfs.Disk, len(s.disks))
	for i := range s.disks {
		d := &s.disks[i]
		disks[i] = guestfs.Disk{Target: d.target, Image: imageOf(images.Top(d.nodes)), Shared: d.shared}
		if n := len(d.nodes); n > 1 {
			below := imageOf(&d.nodes[n-2])
			disks[i].Below = &below
		}
	}
	return disks
}

// imageOf has the format as QEMU calls it.
func imageOf(n *chain.Node) guestfs.Image {
	if n.Image.Format == "vhd" {
		return guestfs.Image{Path: n.Path, Format: "vpc"}
	}
	return guestfs.Image{Path: n.Path, Format: n.Image.Format}
}

// withFiles opens the file systems of states, at a directory for all to see or, without one, for do alone,
// and ends all that at last.
func withFiles(r *images.Run, at string, wanted []wantedState, do func([]*guestfs.View) error) (err error) {
	l, err := readStates(r, wanted...)
	if err != nil {
		return err
	}
	if err := journal.ForgetReaders(l.dir, func(died *journal.Reader) error { return tidyUp(r.Env, died) }); err != nil {
		fmt.Fprintln(r.Err, "virt-rotate: warning:", term.OneLine(err))
	}
	dir, err := os.MkdirTemp("", tempName)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := l.begin(r, journal.Reader{Dir: dir, Mount: at}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.end()) }()
	views, err := l.open(r, dir, at)
	defer func() {
		for _, v := range views {
			err = errors.Join(err, v.Close())
		}
	}()
	if err != nil {
		return openError(r, err)
	}
	switch err := l.stillThere(r); {
	case at != "" && errors.Is(err, context.Canceled):
		return nil // it is mounted, and that is how a mount is meant to end
	case err != nil:
		return openError(r, err)
	}
	return do(views)
}

// tempName begins the name of the directory for what is needed meanwhile.
const tempName = "virt-rotate-files-"

// open opens the file systems, of several states at a time: most of it is waiting.
func (l *look) open(r *images.Run, dir, at string) ([]*guestfs.View, error) {
	type opened struct {
		view *guestfs.View
		err  error
	}
	ctx, cancel := context.WithCancel(r.Ctx())
	defer cancel()
	done := make([]chan opened, len(l.states))
	for i := range l.states {
		done[i] = make(chan opened, 1)
		go func() {
			v, err := l.openOne(ctx, r, i, dir, at)
			if err != nil {
				cancel() // the others are not needed any more
			}
			done[i] <- opened{v, err}
		}()
	}
	var views []*guestfs.View
	var errs []error
	for i := range done {
		o := <-done[i]
		if o.view != nil {
			views = append(views, o.view)
		}
		if o.err != nil && (!errors.Is(o.err, context.Canceled) || r.Ctx().Err() != nil) {
			errs = append(errs, o.err)
		}
	}
	return views, errors.Join(errs...)
}

func (l *look) openOne(ctx context.Context, r *images.Run, i int, dir, at string) (*guestfs.View, error) {
	dir = fmt.Sprintf("%s/%d", dir, i)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	return guestfs.Open(ctx, l.states[i].images(), guestfs.Options{
		HostKernel: r.Bool("host-kernel"), FileSystem: r.String("filesystem"), Keys: r.StringSlice("key"), Dir: dir, At: at,
	})
}

// openError says what an error is about.
func openError(r *images.Run, err error) error {
	var choice *guestfs.ChoiceError
	switch {
	case err == nil || errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &choice):
		return term.Usagef("%w", err)
	case errors.Is(err, guestfs.ErrLocked):
		return &chain.RefusedError{Path: r.Arg(0), Reason: err.Error() + ", or has it for itself; a merge of these layers may be running: try again when it is done"}
	}
	return err
}

// tidyUp removes what a reader left that died, and tells of it.
func tidyUp(e *term.Env, died *journal.Reader) error {
	if died.Mount != "" {
		detached, err := guestfs.DetachDead(died.Mount, died.PID)
		if err != nil {
			return fmt.Errorf("%s, which %s left mounted when it died: %w", died.Mount, died, err)
		}
		if detached {
			fmt.Fprintf(e.Err, "virt-rotate: %s is unmounted: %s has died\n", term.Printable(died.Mount), term.Printable(died.String()))
		}
	}
	if !strings.HasPrefix(path.Base(died.Dir), tempName) {
		return nil
	}
	inside, _ := filepath.Glob(died.Dir + "/*/*") // of an ordinary user, whose mounts are everybody's; the pattern is right
	for _, dir := range inside {
		if _, err := guestfs.DetachDead(dir, died.PID); err != nil {
			return err
		}
	}
	return os.RemoveAll(died.Dir)
}

// A fileRun is a command on files, which tells of each that fails and goes on.
type fileRun struct {
	*images.Run
	failed int
}

// fail tells of a file that could not be read or written.
func (r *fileRun) fail(err error) {
	r.failed++
	fmt.Fprintln(r.Err, "virt-rotate:", filetree.Quote(err.Error()))
}

// end is the exit status.
func (r *fileRun) end(err error) error {
	if err == nil && r.failed > 0 {
		return &term.ExitError{Code: term.ExitFailed}
	}
	return err
}

// filesAction wraps a command on files.
func filesAction(e *term.Env, usage string, fits func(n int) bool, do func(r *fileRun) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		if c.IsSet("output") {
			if err := term.CheckOutput(c); err != nil {
				return err
			}
		}
		if !fits(c.Args().Len()) {
			return term.Usagef("%s wants %s; --help tells more", c.Command.HelpName, usage)
		}
		r := &fileRun{Run: images.NewRun(e, c, nil)}
		return term.OneLine(r.Outcome(r.end(do(r))))
	}
}
