package sr

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
)

// action wraps what an sr command does with the repository that is its argument.
func action(e *term.Env, do func(r *images.Run, repo *vhdbridge.Repository) error) cli.ActionFunc {
	return images.Action(e, 1, mostVolumes, onRepository(do))
}

// onRepository finds the repository of a command, and does something with it.
func onRepository(do func(r *images.Run, repo *vhdbridge.Repository) error) func(*images.Run) error {
	return func(r *images.Run) error {
		dir, err := filepath.Abs(r.Arg(0))
		if err != nil {
			return err
		}
		if onVolumes(r, dir) {
			return withVolumes(r, do)
		}
		if r.Args().Len() > 1 {
			return term.Usagef("%s: want one directory, or the physical volumes of one repository", r.Arg(1))
		}
		return withRepository(r, dir, nil, do)
	}
}

// withRepository does something with the repository in dir. Describe, if not nil, tells more of
// it than its nodes do.
func withRepository(r *images.Run, dir string, describe func(*vhdbridge.Repository), do func(r *images.Run, repo *vhdbridge.Repository) error) error {
	repo, err := scan(r, dir)
	if err != nil {
		return err
	}
	if len(repo.Nodes) == 0 {
		return noRepository(r, dir)
	}
	if describe != nil {
		describe(repo)
	}
	if err := named(r, repo); err != nil {
		return err
	}
	return do(r, repo)
}

// scan reads the repository; what its nodes name is followed as in it, and all of them are
// allowed.
func scan(r *images.Run, dir string) (*vhdbridge.Repository, error) {
	repo, err := vhdbridge.Scan(r.Store.FS, dir, vhdbridge.Readers())
	if err != nil {
		return nil, err
	}
	r.Store.Locate, r.Store.Named = repo.Locate, nil
	for _, n := range repo.Nodes {
		r.Store.Named = append(r.Store.Named, n.Path)
	}
	return repo, nil
}

// noRepository names the repositories that lie below dir, as in what an NFS server exports.
func noRepository(r *images.Run, dir string) error {
	reason := "no node of a storage repository is there"
	below, err := vhdbridge.Below(r.Store.FS, dir)
	if err != nil {
		return err
	}
	var lines []string
	for _, b := range below {
		lines = append(lines, fmt.Sprintf("%s (%s)", term.Printable(b.Dir), term.Plural(b.Nodes, "node")))
	}
	if len(lines) > 0 {
		reason += "; below it there are, to be named each by itself: " + strings.Join(lines, ", ")
	}
	return &chain.RefusedError{Path: dir, Reason: reason}
}
