package sr

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
)

func detachedFlag() cli.Flag {
	return &cli.BoolFlag{Name: "detached", Usage: "no XenServer host has the repository attached, or all guests with disks in it are off"}
}

// askDetached sees that no other host works on what is about to be changed. At a terminal
// it asks whether that is so.
func askDetached(r *images.Run, repo *vhdbridge.Repository, o vhdbridge.Options) error {
	here := vhdbridge.ThisHost()
	if how, err := here.Shared(repo.Dir); how == "" {
		return err
	}
	p, err := repo.Plan(r.Store.FS, o)
	if err != nil || len(p.Steps)+len(repo.Journals) == 0 {
		return err
	}
	err = here.Elsewhere(repo, r.Clock(), r.Bool("detached"))
	var undetached *vhdbridge.UndetachedError
	if !errors.As(err, &undetached) || !canAsk(r) {
		return err
	}
	fmt.Fprintf(r.Err, "%s is %s.\nIs it detached from every XenServer host, or are all guests with disks in it off? Type yes: ",
		term.Printable(repo.Dir), undetached.How)
	answer, _ := bufio.NewReader(os.Stdin).ReadString('\n') // none is no
	if strings.TrimSpace(answer) != "yes" {
		return err
	}
	return nil
}

// canAsk tells whether somebody sits at the terminal.
func canAsk(r *images.Run) bool {
	return r.String("output") == "human" && !r.Bool("quiet") && term.IsTerminal(r.Err) && term.IsTerminal(os.Stdin)
}

// tellUndetached tells of a dry run that the run would ask, and refuses what the run would
// refuse whatever the answer.
func tellUndetached(r *images.Run, repo *vhdbridge.Repository, changes bool) error {
	if !changes {
		return nil
	}
	err := vhdbridge.ThisHost().Elsewhere(repo, r.Clock(), r.Bool("detached"))
	var undetached *vhdbridge.UndetachedError
	if errors.As(err, &undetached) {
		fmt.Fprintf(r.Err, "virt-rotate: %s\n", term.Printable(undetached.Error()))
		return nil
	}
	return err
}
