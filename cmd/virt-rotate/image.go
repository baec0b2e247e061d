package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/urfave/cli/v2"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/formats"
)

const imageExitHelp = `Exit status:
   0  done
   1  failed, or interrupted; every image is valid
   2  wrong usage
   4  refused because it would not be safe; nothing was changed`

const imageDescription = `The image engine, for images that no guest uses. Arguments, output and exit
statuses are those of qemu-img where it has the command; docs/image.md tells the
differences. Without -f a file is taken for qcow2 or VHD, and only if it carries that
format's magic at its beginning; a raw disk must be named with -f raw, a fixed VHD
with -f vhd. Backing files are looked for
in the directory of the image and in those of --allow.

   virt-rotate image info --backing-chain web.qcow2
   virt-rotate image commit --dry-run web.snap1.qcow2

` + imageExitHelp

func imageCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "image", Usage: "look at, check, convert and merge images that no guest uses", OnUsageError: usageError,
		Description: imageDescription, HideHelpCommand: true,
		Subcommands: []*cli.Command{
			imageInfoCommand(e), imageMapCommand(e), imageCheckCommand(e), imageCompareCommand(e),
			imageCreateCommand(e), imageConvertCommand(e),
			imageCommitCommand(e), imagePullCommand(e), imageRebaseCommand(e),
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("image %q: want info, map, check, compare, create, convert, commit, pull or rebase", c.Args().First())
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}

func formatFlag() cli.Flag {
	return &cli.StringFlag{Name: "format", Aliases: []string{"f"}, Usage: "`FORMAT` of the image: qcow2, vhd (or vpc) or raw; default: qcow2 or vhd, if it carries the magic"}
}

func allowFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "allow", Usage: "backing files may be in `DIR`, too; may be repeated"}
}

// writeFlags are those of all commands that write.
func writeFlags() []cli.Flag {
	return []cli.Flag{
		outputFlag(),
		&cli.BoolFlag{Name: "dry-run", Usage: "tell what would be done, change nothing"},
		&cli.BoolFlag{Name: "progress", Aliases: []string{"p"}, Usage: "show progress each second, also when it goes to a log"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "tell nothing but errors"},
	}
}

// An imageRun is one image command on its way.
type imageRun struct {
	*env
	*cli.Context
	store *chain.Store
	moved int64  // bytes copied; once it is not 0, an image has been changed
	hint  string // what is to be said after an interruption
	ended int    // the exit status then
}

// imageAction wraps what an image command does: with from least to most arguments.
func imageAction(e *env, least, most int, do func(r *imageRun) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		if err := checkOutput(c); err != nil {
			return err
		}
		if n := c.Args().Len(); n < least || n > most {
			return usagef("%s wants %s; --help tells more", c.Command.HelpName, c.Command.ArgsUsage)
		}
		if f := c.String("format"); f != "" {
			if _, err := formats.Named(f); err != nil {
				return err
			}
		}
		r := &imageRun{env: e, Context: c, store: formats.Store(e.fs, c.StringSlice("allow")), ended: exitFailed}
		r.store.Ignore = c.StringSlice("ignore")
		return oneLine(r.outcome(do(r)))
	}
}

// ctx ends when the program is told to stop.
func (r *imageRun) ctx() context.Context { return r.Context.Context }

func (r *imageRun) arg(i int) string { return r.Args().Get(i) }

// format is what -f says, or "".
func (r *imageRun) format() string { return r.String("format") }

// progress returns what is to be told of copied bytes, and what ends the bar.
func (r *imageRun) progress(what string, total int64) (done func(n int64), end func()) {
	w := r.err
	if r.Bool("quiet") {
		w = io.Discard
	}
	p := newProgress(w)
	if r.Bool("progress") {
		p.every = time.Second
	}
	show := p.copying(what, total)
	return func(n int64) {
		r.moved += n
		show(n)
	}, p.end
}

// outcome turns the error of a command that writes into what is to be said.
// After a change nothing is a refusal any more.
func (r *imageRun) outcome(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return &exitError{r.ended, errors.New("interrupted" + r.hint)}
	case r.moved > 0 && isRefusal(err):
		return &exitError{exitFailed, err}
	}
	return err
}

// A lineError is told in one line, and cannot trick a terminal: names of files
// come from whoever wrote the image.
type lineError struct{ error }

func (e lineError) Error() string {
	return printable(strings.ReplaceAll(e.error.Error(), "\n", "; "))
}

func (e lineError) Unwrap() error { return e.error }

func oneLine(err error) error {
	var exit *exitError
	if err == nil || errors.As(err, &exit) && exit.err == nil {
		return err
	}
	return lineError{err}
}

// printable writes control characters as Go does.
func printable(s string) string {
	if strings.IndexFunc(s, func(c rune) bool { return !unicode.IsPrint(c) }) < 0 {
		return s
	}
	var b strings.Builder
	for _, c := range s {
		if unicode.IsPrint(c) {
			b.WriteRune(c)
		} else {
			q := fmt.Sprintf("%+q", c)
			b.WriteString(q[1 : len(q)-1])
		}
	}
	return b.String()
}

// sizeText is a size as qemu-img writes it: three digits.
func sizeText(n int64) string {
	const units = "KMGTPE"
	v, unit := float64(n), ""
	for i := 0; v >= 1000 && i < len(units); i++ {
		v, unit = v/1024, units[i:i+1]+"i"
	}
	return fmt.Sprintf("%.3g %sB", v, unit)
}

// chain lists the image at path and all below it, base first.
func (r *imageRun) chain(path, format string) ([]chain.Node, error) {
	return r.store.Chain(path, format)
}

// readable is chain, for those whose data is to be read.
func (r *imageRun) readable(path, format string) ([]chain.Node, error) {
	nodes, err := r.chain(path, format)
	for _, n := range nodes {
		if n.Image.Encrypted {
			return nil, &chain.RefusedError{Path: n.Path, Reason: "it is encrypted: its data cannot be read without the key"}
		}
	}
	return nodes, err
}

// changeable refuses what could not be changed without loss. The engine does so
// only when it is about to write.
func changeable(n chain.Node) error {
	reason := ""
	switch i := n.Image; {
	case i.Corrupt:
		reason = "it is marked as corrupt: check and repair it first"
	case i.Encrypted:
		reason = "it is encrypted"
	case i.Bitmaps > 0:
		reason = fmt.Sprintf("it has %d persistent bitmaps, which would become stale", i.Bitmaps)
	default:
		return nil
	}
	return &chain.RefusedError{Path: n.Path, Reason: reason}
}

// An imageStep is one thing that a command does, or has done.
type imageStep struct {
	Op     string `json:"op"`
	Path   string `json:"path"`
	Target string `json:"target,omitempty"`
	Bytes  *int64 `json:"bytes,omitempty"` // of data: at most, before; copied, after
	Note   string `json:"note,omitempty"`
}

// An imageReport is the JSON of all commands that write.
type imageReport struct {
	Command string      `json:"command"`
	DryRun  bool        `json:"dry-run"`
	Steps   []imageStep `json:"steps"`
}

// steps prints what was done, or what would be done.
func (r *imageRun) steps(steps []imageStep) error {
	report := imageReport{r.Command.Name, r.Bool("dry-run"), steps}
	if r.Bool("quiet") && r.String("output") == "human" {
		return nil
	}
	return r.print(r.Context, report, func(w io.Writer) { stepsText(w, report) })
}

// An opText says how a step is told: before, and after.
type opText struct{ plan, done string }

func opTexts() map[string]opText {
	return map[string]opText{
		"create":  {"create", "created"},
		"convert": {"convert", "converted"},
		"finish":  {"finish", "finished"},
		"merge":   {"merge", "merged"},
		"pull":    {"pull", "pulled"},
		"rebase":  {"rebase", "rebased"},
		"relink":  {"relink", "relinked"},
		"delete":  {"delete", "deleted"},
	}
}

func stepsText(w io.Writer, report imageReport) {
	texts := opTexts()
	for _, s := range report.Steps {
		verb := texts[s.Op].done
		if report.DryRun {
			verb = texts[s.Op].plan
		}
		fmt.Fprintf(w, "%-9s  %s%s\n", verb, printable(s.Path), stepRest(s, report.DryRun))
	}
	if report.DryRun {
		fmt.Fprintln(w, "nothing was changed (--dry-run)")
	}
}

func stepRest(s imageStep, plan bool) string {
	text := ""
	if s.Target != "" {
		text = " → " + printable(s.Target)
	}
	var notes []string
	switch {
	case s.Bytes != nil && plan:
		notes = append(notes, "up to "+sizeText(*s.Bytes)+" to copy")
	case s.Bytes != nil:
		notes = append(notes, sizeText(*s.Bytes)+" copied")
	}
	if s.Note != "" {
		notes = append(notes, printable(s.Note))
	}
	if len(notes) > 0 {
		text += "  (" + strings.Join(notes, "; ") + ")"
	}
	return text
}
