package guests

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/filetree"
	"github.com/virt-rotate/virt-rotate/internal/guestfs"
)

func cpCommand(e *term.Env) *cli.Command {
	const usage = "DOMAIN@SNAPSHOT:/PATH… [DEST]"
	return &cli.Command{
		Name: "cp", Usage: "copy files out of a snapshot",
		ArgsUsage: usage, OnUsageError: term.UsageError, UseShortOptionHandling: true,
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "r", Aliases: []string{"R", "recursive"}, Usage: "directories, too, with all that is in them; links are copied as links"},
			&cli.BoolFlag{Name: "a", Aliases: []string{"archive"}, Usage: "-r, and owner, mode, times, access control lists and the attributes of users as they are"},
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "overwrite files that are there, and write into directories that are"},
			&cli.StringFlag{Name: "to", Usage: "write one file into the running guest `DOMAIN:/PATH`, by its agent, in place of DEST"},
			&cli.BoolFlag{Name: "special", Usage: "device nodes, FIFOs and sockets, too; with -a also the set-user-ID and set-group-ID bits, capabilities and other attributes"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "tell nothing but errors"},
		}, filesFlags()...),
		Description: `   virt-rotate cp web@latest:/etc/app.conf .
   virt-rotate cp -a web@yesterday:/var/www /srv/back/
   virt-rotate cp -r --host-kernel web@-2:/home/ann/mail /srv/back/
   virt-rotate cp web@latest:/etc/app.conf --to web:/etc/app.conf --force

As cp does, it copies into DEST where that is a directory, and else to that name; but
nothing that is there is overwritten without --force. Each file is written under
another name (.virt-rotate-…) and then named: there is no half file.

Guests need not be trusted. Nothing is written outside DEST, whatever their links say:
a link is copied as it is, and never followed on the way (without -r and -a one that is
named is, within the guest). Hard links become files of their own. Device nodes, FIFOs,
sockets and what gives rights to a program (set-user-ID, capabilities) are left out
unless --special asks for them. Owners are copied with -a only, as numbers.

--to writes one file into a running guest, by its agent (qemu-guest-agent), with the
owner and mode that it had. It is written beside its name and then takes it; where the
agent may not run programs (guest-exec), it is written in place, which is told.

A file that cannot be copied is told, the others are; the exit status is 1 then.

` + filesHelp + snapshotHelp + images.ExitHelp,
		Action: filesAction(e, usage, func(n int) bool { return n >= 1 }, copyFiles),
	}
}

func copyFiles(r *fileRun) error {
	r.Hint = ": files that were copied by then are whole"
	args := r.Args().Slice()
	switch {
	case r.IsSet("to"):
		return copyIntoGuest(r)
	case len(args) < 2:
		return term.Usagef("%s wants DEST, or --to; --help tells more", r.Command.HelpName)
	}
	sources, dest := args[:len(args)-1], args[len(args)-1]
	wanted, paths, err := oneState(r, sources)
	if err != nil {
		return err
	}
	c := &filetree.Copier{
		Recursive: r.Bool("r") || r.Bool("a"), Archive: r.Bool("a"), Special: r.Bool("special"), Force: r.Bool("force"), Failed: r.fail,
	}
	left := &leftOut{fileRun: r}
	c.Left = left.note
	return withFiles(r.Run, "", []wantedState{wanted}, func(views []*guestfs.View) error {
		if !r.Bool("quiet") {
			done, end := r.Progress("cp", 0)
			c.Done = done
			defer end()
		}
		err := filetree.New(views[0].Root).Copy(r.Ctx(), paths, dest, c)
		left.tell()
		return err
	})
}

// oneState is the state that all paths are of.
func oneState(r *fileRun, sources []string) (wanted wantedState, paths []string, err error) {
	for i, source := range sources {
		p, err := parseGuestPath(source)
		if err != nil {
			return wanted, nil, err
		}
		if !strings.Contains(source, ":/") {
			return wanted, nil, term.Usagef("%s: name what is to be copied, as in %[1]s:/etc; :/ is all of it", term.Printable(source))
		}
		if i > 0 && (p.domain != wanted.domain || p.snapshot != wanted.snapshot) {
			return wanted, nil, term.Usagef("%s: files are copied out of one snapshot at a time", term.Printable(source))
		}
		wanted = wantedState{p.domain, p.snapshot, r.StringSlice("disk")}
		paths = append(paths, p.path)
	}
	return wanted, paths, nil
}

// leftOut counts special files.
type leftOut struct {
	*fileRun
	count int
}

// leftNames is how many of them are named.
const leftNames = 5

func (l *leftOut) note(e *filetree.Entry) {
	if l.count++; l.count <= leftNames {
		fmt.Fprintf(l.Err, "virt-rotate: left out: %s (%s); --special copies it\n", filetree.Quote(e.Path), typeText(e.Mode))
	}
}

func (l *leftOut) tell() {
	if more := l.count - leftNames; more > 0 {
		fmt.Fprintf(l.Err, "virt-rotate: left out: %d more\n", more)
	}
}
