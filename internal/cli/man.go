package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

// manCommand prints the manual page, which is made of the help texts.
func manCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "man", Usage: "print the manual page", Hidden: true, OnUsageError: term.UsageError,
		Action: func(c *cli.Context) error {
			page, err := c.App.ToManWithSection(1)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(e.Out, page)
			return err
		},
	}
}
