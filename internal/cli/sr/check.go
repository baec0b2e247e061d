package sr

import (
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
)

func checkCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "check every node of a repository",
		ArgsUsage: "DIR|PV…", OnUsageError: images.CheckUsageError, Flags: []cli.Flag{term.OutputFlag(), namesFlag()},
		Description: `Each node is checked as image check does, without repairing anything. So are the links
between them: that each parent is there, and is the image that the node was made on.

` + images.CheckHelp,
		Action: func(c *cli.Context) error {
			return images.CheckOutcome(action(e, checkRepository)(c))
		},
	}
}

// checkReport is the JSON of sr check.
type checkReport struct {
	Path  string      `json:"path"`
	Nodes []nodeCheck `json:"nodes"`
}

// nodeCheck is what was found of one node.
type nodeCheck struct {
	Name  string               `json:"name"`
	Check *formats.CheckResult `json:"check,omitempty"`
	Error string               `json:"error,omitempty"`
	Known *known               `json:"vdi,omitempty"`

	called string
}

func checkRepository(r *images.Run, repo *vhdbridge.Repository) error {
	checked := []nodeCheck{}
	var worst formats.CheckResult
	for _, n := range repo.Nodes {
		c := checkNode(r, n)
		checked = append(checked, c)
		if c.Error != "" {
			worst.Corruptions++
		}
		if c.Check != nil {
			worst.Corruptions += c.Check.Corruptions
			worst.CheckErrors += c.Check.CheckErrors
			worst.Leaks += c.Check.Leaks
		}
	}
	report := checkReport{repo.Dir, checked}
	err := r.Print(r.Context, report, func(w io.Writer) {
		for _, c := range checked {
			checkedText(w, &c)
		}
	})
	return errors.Join(err, images.CheckExit(&worst))
}

func checkNode(r *images.Run, n *vhdbridge.Node) nodeCheck {
	c := nodeCheck{Name: n.Name, Known: knownJSON(n.Known)}
	if text := n.Called(); text != "" {
		c.called = " (" + text + ")"
	}
	c.Error = n.Odd()
	format, err := formats.Named(n.Format)
	if err != nil || format.Check == nil {
		return c
	}
	res, err := images.CheckFile(r.Store, n.Path, formats.RepairNone, format.Check)
	if err != nil {
		if c.Error == "" {
			c.Error = err.Error()
		}
		return c
	}
	c.Check = &res
	return c
}

func checkedText(w io.Writer, c *nodeCheck) {
	name := term.Printable(c.Name + c.called)
	switch {
	case c.Check != nil && c.Check.Corruptions+c.Check.CheckErrors+c.Check.Leaks > 0:
		fmt.Fprintf(w, "%s:\n", name)
		images.CheckText(w, c.Check)
	case c.Error == "":
		fmt.Fprintf(w, "%s: no errors\n", name)
	}
	if c.Error != "" {
		fmt.Fprintf(w, "%s: %s\n", name, term.Printable(c.Error))
	}
}
