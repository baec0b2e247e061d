package fleet

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/starthook"
	"github.com/virt-rotate/virt-rotate/rotate"
)

// hookReport is the JSON of fleet hook.
type hookReport struct {
	Path   string `json:"path"`   // of the file that libvirt calls
	There  bool   `json:"there"`  // it is there now
	Proven bool   `json:"proven"` // libvirt has called it: the other hosts rely on it
	Engine string `json:"engine"` // by which hosts tell each other; "" where it is the storage itself, and the hook does nothing
}

func hookCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "hook", Usage: "have libvirt ask the other hosts before it starts a guest",
		OnUsageError: term.UsageError, Flags: []cli.Flag{&cli.BoolFlag{Name: "remove", Usage: "take it away"}, term.OutputFlag()},
		Description: `Where locks on images do not reach other hosts, nothing tells one of them that a guest was
started on another. With this hook on all hosts, and [coordination] engine = "etcd", each start
is told before, and waits while a host merges what the guest needs: then merges go on there.
No guest whose disks lie on shared storage starts while the cluster cannot be asked. Libvirt
looks for hooks as its daemon starts: if there was none before, restart it (guests go on).
--remove first tells the others, and takes nothing away while one of them merges.

` + term.ExitHelp,
		Action: func(c *cli.Context) error {
			if c.Args().Len() > 0 {
				return term.Usagef("%s wants no arguments", c.Command.HelpName)
			}
			if err := term.CheckOutput(c); err != nil {
				return err
			}
			return session.With(e, true, func(s *session.Session) error { return changeHook(e, c, s) })
		},
	}
}

func changeHook(e *term.Env, c *cli.Context, s *session.Session) error {
	h := starthook.Hook{StateDir: s.Rotator.Observer.StateDir}
	lock, err := rotate.Lock(h.StateDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if c.Bool("remove") {
		err = removeHook(c.Context, s, h)
	} else {
		err = installHook(e, h)
	}
	if err != nil {
		return err
	}
	_, failed := os.Stat(h.Path())
	report := hookReport{Path: h.Path(), There: failed == nil, Proven: h.Asks(), Engine: string(s.Policy.Coordination.Engine)}
	return e.Print(c, report, func(out io.Writer) { hookText(out, &report) })
}

func installHook(e *term.Env, h starthook.Hook) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	policyPath, err := filepath.Abs(e.PolicyPath)
	if err != nil {
		return err
	}
	return h.Install([]string{self, "--policy", policyPath, "--state-dir", h.StateDir, "fleet", "admit"})
}

// removeHook tells the others that starts here are told no more, and leaves the hook where it is while one of them relies
// on it.
func removeHook(ctx context.Context, s *session.Session, h starthook.Hook) error {
	o := s.Rotator.Observer
	o.Fleet.Asks = nil
	why, err := s.Rotator.Disclose(ctx)
	if missing := o.Fleet.Missing(); err == nil && why == "" && len(missing) > 0 {
		why = fmt.Sprintf("the hosts of %s cannot be told: it is not mounted, or the policy does not name it as shared any more", missing[0])
	}
	if err != nil {
		return err
	}
	if why != "" {
		return &term.ExitError{Code: term.ExitRefused, Err: fmt.Errorf("%s stays where it is: %s; take it away once that is done", h.Path(), why)}
	}
	return h.Remove()
}

func hookText(out io.Writer, r *hookReport) {
	switch {
	case !r.There:
		fmt.Fprintf(out, "%s is not there any more: guests start without asking, and nothing is merged where locks do not reach other hosts\n", r.Path)
	case r.Engine == "":
		fmt.Fprintf(out, "%s is there; it does nothing without [coordination] engine = \"etcd\"\n", r.Path)
	case r.Proven:
		fmt.Fprintf(out, "%s is there, and libvirt calls it\n", r.Path)
	default:
		fmt.Fprintf(out, "%s is there. Restart libvirt's daemon if it had no hook before (guests go on): once it has called this one for a guest, and virt-rotate has run, the other hosts rely on it\n", r.Path)
	}
}
