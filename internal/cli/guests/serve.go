package guests

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/convert"
)

func serveCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "serve", Usage: "hand out a disk of a snapshot read-only over NBD, to get single files back",
		ArgsUsage: "DOMAIN SNAPSHOT", OnUsageError: term.UsageError,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "disk", Usage: "`TARGET` of the disk, such as vda; needed where the snapshot has several"},
			&cli.StringFlag{Name: "socket", Usage: "`PATH` of the Unix socket (default: one in a new directory)"},
		},
		Description: `Runs qemu-nbd, which must be installed, until it is interrupted. Nobody but the user
who started it can connect. The guest may run; a merge of the same layers fails
meanwhile and is done by a later run.

   virt-rotate serve web nightly-20261122T033338Z &
   guestfish --ro --format=raw -a 'nbd://?socket=/tmp/…/nbd' -i
   nbdcopy 'nbd+unix:///?socket=/tmp/…/nbd' disk.raw

` + snapshotHelp + images.ExitHelp,
		Action: func(c *cli.Context) error {
			if c.Args().Len() != 2 {
				return term.Usagef("%s wants DOMAIN SNAPSHOT; --help tells more", c.Command.HelpName)
			}
			r := images.NewRun(e, c, nil)
			return term.OneLine(serveDisk(r))
		},
	}
}

func serveDisk(r *images.Run) (err error) {
	program, err := exec.LookPath("qemu-nbd")
	if err != nil {
		return errors.New("qemu-nbd is not installed: the package is qemu-utils (Debian family) or qemu-img (Fedora family)")
	}
	nodes, err := snapshotNodes(r)
	if err != nil {
		return err
	}
	socket, tidy, err := socketOf(r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tidy()) }()
	image := images.Top(nodes)
	return serveUntilTold(r, program, socket, "--format="+image.Image.Format, image.Path)
}

// socketOf returns the path of the socket, and what removes its directory.
func socketOf(r *images.Run) (path string, tidy func() error, err error) {
	if path := r.String("socket"); path != "" {
		path, err = filepath.Abs(path)
		if err == nil {
			err = convert.CheckFree(r.Store.FS, path)
		}
		return path, func() error { return nil }, err
	}
	dir, err := os.MkdirTemp("", "virt-rotate-nbd-")
	return filepath.Join(dir, "nbd"), func() error { return os.RemoveAll(dir) }, err
}

// serveUntilTold runs qemu-nbd until it ends, or this program is told to stop.
func serveUntilTold(r *images.Run, program, socket string, image ...string) error {
	args := append([]string{"--read-only", "--persistent", "--shared=8", "--socket=" + socket}, image...)
	cmd := exec.CommandContext(r.Ctx(), program, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var errs bytes.Buffer
	cmd.Stderr = &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	old := syscall.Umask(0o077) // the socket is for this user alone
	err := cmd.Start()
	syscall.Umask(old)
	if err != nil {
		return err
	}
	ended := make(chan error, 1) // nil only if it was told to end: it is persistent
	go func() { ended <- cmd.Wait() }()
	err = listens(socket, ended)
	stopped := errors.Is(r.Ctx().Err(), context.Canceled) // that is how it is meant to end
	if err != nil && !stopped {
		return fmt.Errorf("qemu-nbd: %w: %s", err, strings.TrimSpace(errs.String()))
	}
	if !stopped {
		fmt.Fprintf(r.Out, "nbd+unix:///?socket=%s\n", socket)
		err = <-ended
	}
	if err == nil || errors.Is(r.Ctx().Err(), context.Canceled) {
		return nil // Ctrl-C reaches qemu-nbd, too, and may do so first
	}
	return fmt.Errorf("qemu-nbd ended: %w: %s", err, strings.TrimSpace(errs.String()))
}

// listens waits until somebody can connect.
func listens(socket string, ended chan error) error {
	for range 100 {
		if c, err := net.Dial("unix", socket); err == nil {
			return c.Close()
		}
		select {
		case err := <-ended:
			return errors.Join(errors.New("it ended at once"), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
	return errors.New("nobody can connect to it")
}
