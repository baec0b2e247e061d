package guests

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/filetree"
	"github.com/virt-rotate/virt-rotate/internal/guestfs"
)

func mountCommand(e *term.Env) *cli.Command {
	const usage = "DOMAIN@SNAPSHOT DIR"
	return &cli.Command{
		Name: "mount", Usage: "mount the files of a snapshot read-only, until interrupted or unmounted",
		ArgsUsage: usage, OnUsageError: term.UsageError,
		Flags: filesFlags(),
		Description: `   virt-rotate mount web@yesterday /mnt
   umount /mnt

It stays until Ctrl-C, SIGTERM or umount DIR (as an ordinary user: fusermount3 -u DIR),
and prints DIR once the files are there. DIR must be an empty directory. By libguestfs,
only the user who mounted it can look at it. Links in it that begin with / lead to files
of this host: use virt-rotate cp where you do not trust the guest.

` + filesHelp + snapshotHelp + images.ExitHelp,
		Action: filesAction(e, usage, func(n int) bool { return n == 2 }, mountFiles),
	}
}

func mountFiles(r *fileRun) error {
	p, err := parseGuestPath(r.Arg(0))
	if err != nil {
		return err
	}
	if p.path != "/" {
		return term.Usagef("%s: the whole file system is mounted: name no path", term.Printable(r.Arg(0)))
	}
	dir, err := emptyDir(r.Arg(1))
	if err != nil {
		return err
	}
	return withFiles(r.Run, dir, []wantedState{{p.domain, p.snapshot, r.StringSlice("disk")}}, func(views []*guestfs.View) error {
		fmt.Fprintln(r.Out, filetree.Quote(dir))
		return views[0].Wait(r.Ctx())
	})
}

// emptyDir is the directory to mount at, without links in its name, as the kernel will have it.
func emptyDir(name string) (string, error) {
	dir, err := filepath.Abs(name)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return "", err
	}
	f, err := os.Open(dir)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err = f.Readdirnames(1); err == nil {
		return "", &chain.RefusedError{Path: dir, Reason: "it is not empty: what is in it would be hidden"}
	}
	if !errors.Is(err, io.EOF) {
		return "", err
	}
	return dir, nil
}
