package guests

import (
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/filetree"
	"github.com/virt-rotate/virt-rotate/internal/guestagent"
	"github.com/virt-rotate/virt-rotate/internal/guestfs"
)

// copyIntoGuest copies one file out of a snapshot into a running guest.
func copyIntoGuest(r *fileRun) error {
	if r.Args().Len() != 1 || r.Bool("r") || r.Bool("a") || r.Bool("special") {
		return term.Usagef("--to takes one file, and neither -r, -a nor --special")
	}
	wanted, paths, err := oneState(r, r.Args().Slice())
	if err != nil {
		return err
	}
	to, inside, ok := strings.Cut(r.String("to"), ":/")
	if !ok || to == "" {
		return term.Usagef("--to %s: want DOMAIN:/PATH", term.Printable(r.String("to")))
	}
	if inside = "/" + inside; strings.HasSuffix(inside, "/") {
		inside += path.Base(paths[0])
	}
	r.Hint = ""
	return withFiles(r.Run, "", []wantedState{wanted}, func(views []*guestfs.View) error {
		f, e, err := filetree.New(views[0].Root).Open(paths[0])
		if err != nil {
			return err
		}
		defer f.Close()
		done, end := r.Progress("cp", e.Size)
		defer end()
		return session.With(r.Env, true, func(s *session.Session) error {
			agent := &guestagent.Agent{Ask: func(ctx context.Context, command string) (string, error) {
				return s.Host.AgentCommand(ctx, to, command)
			}}
			inPlace, err := agent.Write(r.Ctx(), &guestagent.File{
				Path: inside, Data: f, Mode: uint32(e.Mode.Perm()), UID: e.UID, GID: e.GID, Overwrite: r.Bool("force"), Done: done,
			})
			if err != nil {
				return fmt.Errorf("%s:%s: %w", to, inside, err)
			}
			if inPlace && !r.Bool("quiet") {
				fmt.Fprintf(r.Err, "virt-rotate: %s was written in place: the agent of %s runs no programs that could set its owner and mode\n", filetree.Quote(inside), term.Printable(to))
			}
			return nil
		})
	})
}
