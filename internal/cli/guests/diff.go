package guests

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/filetree"
	"github.com/virt-rotate/virt-rotate/internal/guestfs"
)

func diffCommand(e *term.Env) *cli.Command {
	const usage = "DOMAIN@SNAPSHOT [DOMAIN@SNAPSHOT] [/PATH]"
	return &cli.Command{
		Name: "diff", Usage: "tell which files differ between two snapshots, or a snapshot and now",
		ArgsUsage: usage, OnUsageError: term.UsageError,
		Flags: append([]cli.Flag{term.OutputFlag(),
			&cli.BoolFlag{Name: "contents", Usage: "read all files, also those whose size and times are the same"},
			&cli.BoolFlag{Name: "times", Usage: "tell of files that were written to and have the same contents, too"},
		}, filesFlags()...),
		Description: `   virt-rotate diff web@yesterday web@latest /etc
   virt-rotate diff web@latest

A line begins with A for a file that was added, D for one that was deleted, M for one
that is not the same, and then tells what: type, target of a link, device, content, mode, owner,
times. Files of the same size that were last written to and changed at the same times are
not read. The exit status is 0 also if there are differences.

Without a second snapshot the other side is the guest as it is now. If it runs, its disk
is read while it is written to, without locks and without the guest's help: as after a
power cut, and what is being written just then may be torn, or tell of errors that are
none. Take a snapshot first where that matters. Nothing is ever written to the image.

` + filesHelp + snapshotHelp + images.ExitHelp,
		Action: filesAction(e, usage, func(n int) bool { return n >= 1 && n <= 3 }, diffFiles),
	}
}

// A fileChange is the JSON of a difference.
type fileChange struct {
	Path       string      `json:"path"`
	PathBase64 string      `json:"path-base64,omitempty"` // where it is no UTF-8
	Change     string      `json:"change"`                // added, deleted, modified
	What       []string    `json:"what,omitempty"`        // type, target, device, content, mode, owner, times
	Old        *listedFile `json:"old,omitempty"`
	New        *listedFile `json:"new,omitempty"`
}

// A diffReport is the JSON of diff.
type diffReport struct {
	Domain  string       `json:"domain"`
	Old     string       `json:"old"` // snapshot, as it was named
	New     string       `json:"new"` // "" for now
	Changes []fileChange `json:"changes"`
}

// diffArgs are the two states and the path.
func diffArgs(r *fileRun) (wanted []wantedState, inside string, err error) {
	inside = "/"
	for i, arg := range r.Args().Slice() {
		if strings.HasPrefix(arg, "/") && i > 0 && i == r.Args().Len()-1 {
			inside = arg
			break
		}
		p, err := parseGuestPath(arg)
		switch {
		case err != nil:
			return nil, "", err
		case p.path != "/":
			return nil, "", term.Usagef("%s: name the path by itself, at the end", term.Printable(arg))
		case i == 2:
			return nil, "", term.Usagef("%s: want a path in the guest, such as /etc", term.Printable(arg))
		}
		wanted = append(wanted, wantedState{p.domain, p.snapshot, r.StringSlice("disk")})
	}
	if len(wanted) == 1 {
		wanted = append(wanted, wantedState{wanted[0].domain, "", r.StringSlice("disk")})
	}
	return wanted, inside, nil
}

func diffFiles(r *fileRun) error {
	wanted, inside, err := diffArgs(r)
	if err != nil {
		return err
	}
	return withFiles(r.Run, "", wanted, func(views []*guestfs.View) error {
		head := []pair{{"domain", wanted[0].domain}, {"old", wanted[0].snapshot}, {"new", wanted[1].snapshot}}
		return r.listed("changes", head, func(out io.Writer, list *objects) error {
			d := &filetree.Differ{Times: r.Bool("times"), Contents: r.Bool("contents"), Failed: r.fail}
			d.Found = func(c *filetree.Change) error {
				if list != nil {
					return list.add(newFileChange(c))
				}
				return changeText(out, c)
			}
			return d.Diff(r.Ctx(), filetree.New(views[0].Root), filetree.New(views[1].Root), inside)
		})
	})
}

// changeText is one line.
func changeText(w io.Writer, c *filetree.Change) error {
	text := "M"
	switch {
	case c.Old == nil:
		text = "A"
	case c.New == nil:
		text = "D"
	}
	text += " " + filetree.Quote(c.Path)
	if len(c.What) > 0 {
		text += "  (" + strings.Join(c.What, ", ") + ")"
	}
	_, err := fmt.Fprintln(w, text)
	return err
}

func newFileChange(c *filetree.Change) fileChange {
	x := fileChange{Path: c.Path, PathBase64: base64Of(c.Path), Change: "modified", What: c.What}
	if c.Old == nil {
		x.Change = "added"
	} else {
		f := newListedFile(c.Old)
		x.Old = &f
	}
	if c.New == nil {
		x.Change = "deleted"
	} else {
		f := newListedFile(c.New)
		x.New = &f
	}
	return x
}
