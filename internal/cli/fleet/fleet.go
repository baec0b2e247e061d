package fleet

import (
	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

// Command is fleet, with all that is below it.
func Command(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "fleet", Usage: "hosts that have the same storage",
		Description: `On storage that other hosts have, too, each run tells the others what the guests of its
host use, in a directory .virt-rotate there. Nothing is merged into, and nothing deleted,
that a guest of another host uses, or may use. docs/fleet.md tells all of it.`,
		Subcommands: []*cli.Command{statusCommand(e), forgetCommand(e), hookCommand(e), admitCommand(e)},
	}
}

// Reports are what the commands print as JSON, each by the words of its command.
func Reports() map[string]any {
	return map[string]any{"fleet-status": statusReport{}, "fleet-forget": forgetReport{}, "fleet-hook": hookReport{}}
}
