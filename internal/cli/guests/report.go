package guests

import (
	"bytes"
	"errors"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/page"
)

// reportExitHelp tells of the exit statuses of report.
const reportExitHelp = `Exit status:
   0  done
   1  failed, or libvirt does not answer
   2  wrong usage, or an error in the policy
   4  refused: the file is there, and is no report`

func reportCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "report", Usage: "write a page that shows the guests: layers, retention, plans, history",
		ArgsUsage: "[DOMAIN…]", OnUsageError: term.UsageError,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Usage: "`FORMAT`: html; json, what the page shows; fragments, its parts in JSON", Value: "html"},
			&cli.StringFlag{Name: "o", Usage: "the `FILE` to write, whole or not at all; - is standard output"},
			&cli.BoolFlag{Name: "force", Usage: "replace a file that is no report"},
			&cli.StringFlag{Name: "timeout", Aliases: []string{"t"}, Value: "2m", Usage: "libvirt has to answer within `TIME`: 30s, 1m, or a number of seconds"},
		},
		Description: `One HTML file that needs nothing beside it: no network and no script. It tells what check,
status, tree, plan and history tell, as pictures. Without names it is about all guests that a
policy covers or should cover. An earlier report of that name is replaced, any other file is
not. Where libvirt does not answer, what is on record is shown, and the exit status is 1.
Nothing is changed.

   virt-rotate report -o report.html
   virt-rotate report 'web-*' -o - | mail -a 'Content-Type: text/html' -s guests root

` + reportExitHelp,
		Action: func(c *cli.Context) error {
			if err := checkReportFlags(c); err != nil {
				return err
			}
			patience, err := patienceOf(c.String("timeout"))
			if err != nil {
				return err
			}
			s, err := newSurvey(e)
			if err != nil {
				return err
			}
			s.look(c.Context, patience, fromOutside(e))
			return tellReport(e, c, s)
		},
	}
}

// checkReportFlags refuses what is wrong before anything is looked at.
func checkReportFlags(c *cli.Context) error {
	switch format := c.String("output"); format {
	case "json", "fragments":
		return nil
	case "html":
		if c.String("o") == "" {
			return term.Usagef("report wants -o FILE for the page; -o - is standard output")
		}
		return nil
	default:
		return term.Usagef("--output=%s: want html, json or fragments", format)
	}
}

func tellReport(e *term.Env, c *cli.Context, s *survey) error {
	if s.world == nil && over(c.Context) {
		return s.failed
	}
	m, err := s.page(c.App.Version, c.Args().Slice())
	if err != nil {
		return err
	}
	for _, note := range s.notes {
		term.Warn(e.Err, note)
	}
	err = WritePage(e, c, m)
	if s.noAnswer != "" {
		err = errors.Join(err, errors.New(s.noAnswer))
	}
	return err
}

// WritePage writes the model in the form that --output names to where -o says.
func WritePage(e *term.Env, c *cli.Context, m *page.Model) error {
	data, mark, err := pageBytes(c.String("output"), m)
	if err != nil {
		return err
	}
	to := c.String("o")
	if to == "" {
		to = "-"
	}
	return e.Replace(to, data, mark, c.Bool("force"))
}

// pageBytes returns the page, and what tells it from other files; "" for nothing.
func pageBytes(format string, m *page.Model) (data []byte, mark string, err error) {
	switch format {
	case "json":
		data, err = term.JSON(m)
		return data, "", err
	case "fragments":
		f, err := page.NewFragments(m)
		if err != nil {
			return nil, "", err
		}
		data, err = term.JSON(struct {
			*page.Fragments
			Model *page.Model `json:"model"`
		}{f, m})
		return data, "", err
	}
	var b bytes.Buffer
	err = page.Write(&b, m)
	return b.Bytes(), page.Generator, err
}
