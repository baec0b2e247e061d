package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/formats"
)

// A Run is one image command on its way.
type Run struct {
	*term.Env
	*cli.Context
	Store *chain.Store
	Moved int64  // bytes copied; once it is not 0, an image has been changed
	Hint  string // what is to be said after an interruption
	Ended int    // the exit status then

	rate int64    // bytes that may be copied in a second; 0 for any
	told []string // images of which it was said that they are written to
}

// Action wraps what an image command does: with from least to most arguments.
func Action(e *term.Env, least, most int, do func(r *Run) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		if err := term.CheckOutput(c); err != nil {
			return err
		}
		if n := c.Args().Len(); n < least || n > most {
			return term.Usagef("%s wants %s; --help tells more", c.Command.HelpName, c.Command.ArgsUsage)
		}
		if f := c.String("format"); f != "" {
			if _, err := formats.Named(f); err != nil {
				return err
			}
		}
		if err := checkCompat(c); err != nil {
			return err
		}
		r := NewRun(e, c, c.StringSlice("allow"))
		var err error
		if r.rate, err = rateOf(c); err != nil {
			return err
		}
		r.Store.Ignore = c.StringSlice("ignore")
		return term.OneLine(r.Outcome(do(r)))
	}
}

// NewRun is a command on images to which backing names lead in the directories of allow, too.
func NewRun(e *term.Env, c *cli.Context, allow []string) *Run {
	r := &Run{Env: e, Context: c, Store: formats.Store(e.FS, allow), Ended: term.ExitFailed}
	if c.Bool("force-share") {
		r.Store.Torn = r.torn
	}
	return r
}

// torn tells, once of each image, what reading it is worth while somebody writes to it.
func (r *Run) torn(path string) {
	if slices.Contains(r.told, path) {
		return
	}
	r.told = append(r.told, path)
	fmt.Fprintf(r.Err, "virt-rotate: %s: another process writes to it: what is read of it can be of several moments, or fail\n", term.Printable(path))
}

// Ctx ends when the program is told to stop.
func (r *Run) Ctx() context.Context { return r.Context.Context }

// Arg is an argument of the command, "" if it is not there.
func (r *Run) Arg(i int) string { return r.Args().Get(i) }

// Format is what -f says, or "".
func (r *Run) Format() string { return r.String("format") }

// Progress returns what is to be told of copied bytes, and what ends the bar.
func (r *Run) Progress(what string, total int64) (done func(n int64), end func()) {
	w := r.Err
	if r.Bool("quiet") {
		w = io.Discard
	}
	p := term.NewProgress(w)
	if r.Bool("progress") {
		p.Every = time.Second
	}
	show := p.Copying(what, total)
	start, copied := time.Now(), int64(0)
	return func(n int64) {
		r.Moved += n
		show(n)
		if copied += n; r.rate > 0 {
			r.rest(time.Until(start.Add(time.Duration(float64(copied) / float64(r.rate) * float64(time.Second)))))
		}
	}, p.End
}

// rest waits, unless the program is told to stop.
func (r *Run) rest(d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-time.After(d):
	case <-r.Ctx().Done():
	}
}

// Outcome turns the error of a command that writes into what is to be said.
// After a change nothing is a refusal any more.
func (r *Run) Outcome(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return &term.ExitError{Code: r.Ended, Err: errors.New("interrupted" + r.Hint)}
	case r.Moved > 0 && term.IsRefusal(err):
		return &term.ExitError{Code: term.ExitFailed, Err: err}
	}
	return err
}

// Image looks at the image that is the first argument, and finds its format.
func (r *Run) Image() (n chain.Node, f *formats.Format, err error) {
	n, err = r.Store.Node(r.Arg(0), r.Format())
	if n.Image.Format == "" {
		return n, nil, err
	}
	f, unknown := formats.Named(n.Image.Format)
	return n, f, errors.Join(err, unknown)
}

// Chain lists the image at path and all below it, base first.
func (r *Run) Chain(path, format string) ([]chain.Node, error) {
	return r.Store.Chain(path, format)
}

// Readable is chain, for those whose data is to be read.
func (r *Run) Readable(path, format string) ([]chain.Node, error) {
	nodes, err := r.Chain(path, format)
	for _, n := range nodes {
		if n.Image.Encrypted {
			return nil, &chain.RefusedError{Path: n.Path, Reason: "it is encrypted: its data cannot be read without the key"}
		}
	}
	return nodes, err
}

// Top is the uppermost image of a chain that is listed base first.
func Top(nodes []chain.Node) *chain.Node { return &nodes[len(nodes)-1] }
