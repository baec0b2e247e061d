package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/libvirthost"
	"github.com/virt-rotate/virt-rotate/internal/starthook"
	"github.com/virt-rotate/virt-rotate/rotate/coord"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

const (
	mostXML   = 16 << 20         // bytes of a guest's XML
	startWait = 10 * time.Second // for the other hosts, while libvirt waits
	endWait   = 3 * time.Second
)

func admitCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "admit", Usage: "libvirt's hook: may a guest start?",
		ArgsUsage: "GUEST OPERATION SUB-OPERATION EXTRA", OnUsageError: term.UsageError,
		Description: `For libvirt alone, which calls it by the file that fleet hook writes, with the guest's
XML on standard input. Before a guest starts (prepare begin), the other hosts are told which
layers it needs; exit status 4 if one of them merges those, 1 if they cannot be asked. Once it
has ended (release end), they are told that. All else does nothing.

` + term.ExitHelp,
		Action: func(c *cli.Context) error {
			if c.Args().Len() < 3 {
				return term.Usagef("%s wants what libvirt gives its hooks: GUEST OPERATION SUB-OPERATION EXTRA", c.Command.HelpName)
			}
			return admit(c.Context, e, c.Args().Get(0), c.Args().Get(1)+" "+c.Args().Get(2))
		},
	}
}

func admit(ctx context.Context, e *term.Env, guest, operation string) error {
	wait, do := startWait, (*observe.Observer).Starting
	switch operation {
	case "prepare begin":
	case "release end":
		wait, do = endWait, (*observe.Observer).Stopped
	default: // that libvirt calls is all that is to be known
		return called(e.StateDir)
	}
	text, err := io.ReadAll(io.LimitReader(os.Stdin, mostXML))
	if err != nil {
		return err
	}
	return session.WithFleet(e, wait, func(o *observe.Observer) error {
		if err := called(o.StateDir); err != nil {
			fmt.Fprintf(e.Err, "virt-rotate: %v\n", err) // the others go on as if it were not there
		}
		d, err := libvirthost.Starting(guest, string(text))
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, 2*wait)
		defer cancel()
		return refused(do(o, ctx, d))
	})
}

// called notes that libvirt calls the hook, which names the directory of the state.
func called(state string) error {
	if state == "" {
		return nil
	}
	return starthook.Hook{StateDir: state}.Called()
}

// refused gives the error of a start its exit status.
func refused(err error) error {
	var work *coord.WorkError
	if errors.As(err, &work) {
		return &term.ExitError{Code: term.ExitRefused, Err: err}
	}
	if err != nil {
		return fmt.Errorf("the other hosts cannot be asked whether the guest may start: %w; docs/fleet.md tells how it starts all the same", err)
	}
	return nil
}
