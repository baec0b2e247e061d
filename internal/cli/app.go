package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/fleet"
	"github.com/virt-rotate/virt-rotate/internal/cli/guests"
	"github.com/virt-rotate/virt-rotate/internal/cli/image"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/sr"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

const description = `virt-rotate keeps N rolling external snapshots of every guest that a policy
names, and keeps the disk chains short. It runs from cron or a systemd timer.

   virt-rotate policy init          write a first policy
   virt-rotate policy check         see whether it is right
   virt-rotate plan                 see what a run would do, and why
   virt-rotate run                  do it (the cron line)
   virt-rotate status               see how the guests stand
   virt-rotate check                whether all are protected, for Nagios and Icinga
   virt-rotate report -o FILE       show them on a page
   virt-rotate history              see what the runs did
   virt-rotate restore GUEST SNAP   go back to a snapshot; export and serve take one out
   virt-rotate cp GUEST@SNAP:/FILE DIR   get files back; ls, mount and diff look at them
   virt-rotate image info FILE      look at an image; image --help tells more
   virt-rotate sr scan DIR          look at a XenServer storage repository

man virt-rotate-run and pages like it tell more of a command, man virt-rotate.toml of the policy.

` + term.ExitHelp

// Run is the whole program: arguments in, exit status out.
func Run(ctx context.Context, version string, args []string, stdout, stderr io.Writer) int {
	stdout, stderr = term.Streams(stdout, stderr)
	e := &term.Env{Out: stdout, Err: stderr, FS: fileSystem(), Clock: clock()}
	app := newApp(e, version)
	if n := len(args) - 1; n > 0 && args[n] == completeFlag {
		complete(e, app, args[:n])
		return term.ExitDone
	}
	ordered, err := reorder(app, args)
	if err == nil {
		err = app.RunContext(ctx, append([]string{app.Name}, ordered...))
	}
	if err != nil && commandOf(app, args) == "check" {
		err = guests.CheckUnknown(e, err)
	}
	code := term.ExitCode(err)
	if text := term.ErrorText(err); text != "" {
		tellError(term.At(stderr, levelOf(code)), text, code, wantsJSON(args) && commandOf(app, args) != "image") // qemu-img has no errors in JSON

	}
	return code
}

// An errorReport is the JSON of an error.
type errorReport struct {
	Error      string `json:"error"`
	ExitStatus int    `json:"exit-status"`
}

func tellError(w io.Writer, text string, code int, inJSON bool) {
	if inJSON {
		if data, err := term.JSON(errorReport{text, code}); err == nil {
			_, _ = w.Write(data) // there is nobody left to tell
			return
		}
	}
	fmt.Fprintln(w, "virt-rotate:", text)
}

// wantsJSON tells whether a command line asks for JSON, also one that is wrong otherwise.
func wantsJSON(args []string) bool {
	for i, arg := range args {
		switch {
		case arg == "--":
			return false
		case arg == "--output=json", arg == "-output=json", arg == "--output" && i+1 < len(args) && args[i+1] == "json":
			return true
		}
	}
	return false
}

// levelOf is the level of what is said at an exit status: that another run is at work is no error.
func levelOf(code int) term.Level {
	if code == term.ExitLocked {
		return term.LevelNotice
	}
	return term.LevelErr
}

func newApp(e *term.Env, version string) *cli.App {
	return &cli.App{
		Name:            "virt-rotate",
		Usage:           "rolling snapshots of libvirt guests, with short chains",
		UsageText:       "virt-rotate [--policy FILE] [--connect URI] COMMAND [DOMAIN…]",
		Description:     description,
		Version:         version,
		Writer:          e.Out,
		ErrWriter:       e.Err,
		HideHelpCommand: true,
		// A comma in the name of a directory is a comma.
		DisableSliceFlagSeparator: true,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "policy", Aliases: []string{"p"}, Usage: "policy `FILE`", EnvVars: []string{"VIRT_ROTATE_POLICY"}, Value: session.DefaultPolicy(), Destination: &e.PolicyPath},
			&cli.StringFlag{Name: "connect", Aliases: []string{"c"}, Usage: "libvirt `URI`; else the policy's, else LIBVIRT_DEFAULT_URI, else libvirt's default", Destination: &e.Connect},
			&cli.StringFlag{Name: "state-dir", Usage: "`DIR` for journal, lock and history; else the policy's", Destination: &e.StateDir},
		},
		Commands:        append(guests.Commands(e), image.Command(e), sr.Command(e), fleet.Command(e)),
		OnUsageError:    term.UsageError,
		CommandNotFound: func(*cli.Context, string) {},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return term.Usagef("%q is not a command; virt-rotate --help lists them", c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
		// The library would call os.Exit itself.
		ExitErrHandler: func(*cli.Context, error) {},
	}
}
