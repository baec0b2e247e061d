package guests

import (
	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

// Commands are the commands for guests, which need no word before them.
func Commands(e *term.Env) []*cli.Command {
	return []*cli.Command{
		planCommand(e), runCommand(e), statusCommand(e), checkCommand(e), reportCommand(e), metricsCommand(e), historyCommand(e), treeCommand(e), restoreCommand(e),
		snapshotCommand(e), pinCommand(e), unpinCommand(e), deleteCommand(e), pruneCommand(e), adoptCommand(e), migrateCommand(e),
		lsCommand(e), cpCommand(e), mountCommand(e), diffCommand(e),
		exportCommand(e), importCommand(e), verifyCommand(e), serveCommand(e), doctorCommand(e), policyCommand(e),
	}
}
