package main

import (
	"context"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"
)

// version is set by the linker.
var version = "dev"

const description = `virt-rotate keeps N rolling external snapshots of every guest that a policy
names, and keeps the disk chains short. It runs from cron or a systemd timer.

   virt-rotate policy init          write a first policy
   virt-rotate policy check         see whether it is right
   virt-rotate plan                 see what a run would do, and why
   virt-rotate run                  do it (the cron line)
   virt-rotate status               see how the guests stand
   virt-rotate history              see what the runs did
   virt-rotate restore GUEST SNAP   go back to a snapshot; export and serve take one out
   virt-rotate image info FILE      look at an image; image --help tells more
   virt-rotate sr scan DIR          look at a XenServer storage repository

` + exitHelp

// run is the whole program: arguments in, exit status out.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	e := &env{out: stdout, err: stderr, fs: fileSystem(), clock: clock()}
	app := newApp(e)
	args, err := reorder(app, args)
	if err == nil {
		err = app.RunContext(ctx, append([]string{app.Name}, args...))
	}
	code := exitCode(err)
	if text := errorText(err); text != "" {
		fmt.Fprintln(stderr, "virt-rotate:", text)
	}
	return code
}

func newApp(e *env) *cli.App {
	return &cli.App{
		Name:            "virt-rotate",
		Usage:           "rolling snapshots of libvirt guests, with short chains",
		UsageText:       "virt-rotate [--policy FILE] [--connect URI] COMMAND [DOMAIN…]",
		Description:     description,
		Version:         version,
		Writer:          e.out,
		ErrWriter:       e.err,
		HideHelpCommand: true,
		// A comma in the name of a directory is a comma.
		DisableSliceFlagSeparator: true,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "policy", Aliases: []string{"p"}, Usage: "policy `FILE`", EnvVars: []string{"VIRT_ROTATE_POLICY"}, Value: defaultPolicy(), Destination: &e.policyPath},
			&cli.StringFlag{Name: "connect", Aliases: []string{"c"}, Usage: "libvirt `URI`; else the policy's, else LIBVIRT_DEFAULT_URI, else libvirt's default", Destination: &e.connect},
			&cli.StringFlag{Name: "state-dir", Usage: "`DIR` for journal, lock and history; else the policy's", Destination: &e.stateDir},
		},
		Commands: []*cli.Command{
			planCommand(e), runCommand(e), statusCommand(e), historyCommand(e), treeCommand(e), restoreCommand(e), exportCommand(e), serveCommand(e), doctorCommand(e), policyCommand(e), imageCommand(e), srCommand(e), manCommand(e),
		},
		OnUsageError:    usageError,
		CommandNotFound: func(*cli.Context, string) {},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("%q is not a command; virt-rotate --help lists them", c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
		// The library would call os.Exit itself.
		ExitErrHandler: func(*cli.Context, error) {},
	}
}
