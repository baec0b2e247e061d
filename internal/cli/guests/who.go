package guests

import (
	"fmt"
	"io"
	"path/filepath"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// tellUsers tells who uses one file.
func tellUsers(e *term.Env, c *cli.Context, w *observe.World, name string) error {
	path, err := filepath.Abs(name)
	if err != nil {
		return err
	}
	u, err := w.UsersOf(path)
	if err != nil {
		return term.Usagef("%w", err)
	}
	return e.Print(c, u, func(out io.Writer) { whoText(out, u) })
}

func whoText(w io.Writer, u *observe.Users) {
	fmt.Fprintln(w, term.Printable(u.Path))
	for _, name := range u.Names {
		fmt.Fprintln(w, "  also known as   "+term.Printable(name))
	}
	for _, who := range u.Keepers {
		fmt.Fprintln(w, "  needed by       "+term.Printable(who))
	}
	for _, path := range u.Images {
		fmt.Fprintln(w, "  built on by     "+term.Printable(path))
	}
	if u.Processes != "" {
		fmt.Fprintln(w, "  opened by       "+u.Processes)
	}
	for _, d := range u.Doubts {
		fmt.Fprintln(w, "  may be used by  "+term.Printable(d))
	}
	if nobody(u) {
		fmt.Fprintln(w, "  nobody that virt-rotate knows of")
	}
}

// nobody tells whether a file is used by nobody, for certain.
func nobody(u *observe.Users) bool {
	return len(u.Keepers)+len(u.Images)+len(u.Doubts) == 0 && u.Processes == ""
}
