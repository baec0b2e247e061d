package guests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/convert"
	"github.com/virt-rotate/virt-rotate/internal/guestfs"
)

func serveCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "serve", Usage: "hand out a disk of a snapshot read-only over NBD",
		ArgsUsage: "DOMAIN SNAPSHOT", OnUsageError: term.UsageError,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "disk", Usage: "`TARGET` of the disk, such as vda; needed where the snapshot has several"},
			&cli.StringFlag{Name: "socket", Usage: "`PATH` of the Unix socket (default: one in a new directory)"},
		},
		Description: `Runs qemu-nbd, which must be installed, until it is interrupted. Nobody but the user
who started it can connect. The guest may run; a merge of the same layers is put off
meanwhile and is done by a later run. virt-rotate cp gets single files back.

   virt-rotate serve --socket /run/web.nbd web latest &
   nbdcopy 'nbd+unix:///?socket=/run/web.nbd' disk.raw
   guestfish --ro --format=raw -a 'nbd://?socket=/run/web.nbd' run : list-filesystems

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
	l, _, err := oneDisk(r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.end()) }()
	socket, tidy, err := socketOf(r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tidy()) }()
	return serveUntilTold(r, l, socket)
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

// serveUntilTold hands a disk out until qemu-nbd ends, or this program is told to stop. The
// layers are looked at again once they are locked.
func serveUntilTold(r *images.Run, l *look, socket string) error {
	server, err := guestfs.Serve(r.Ctx(), &l.states[0].images()[0], socket)
	if err == nil {
		err = l.stillThere(r)
	}
	if errors.Is(err, context.Canceled) {
		err = nil // that is how it is meant to end
	} else if err == nil {
		fmt.Fprintf(r.Out, "nbd+unix:///?socket=%s\n", socket)
		select {
		case <-server.Ended():
			err = server.Failure()
		case <-r.Ctx().Done():
		}
	}
	return errors.Join(openError(r, err), server.Close())
}
