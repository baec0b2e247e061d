package guests

import (
	"fmt"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/bundle"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// tellLeftovers names what imports have left where the images go that were killed. One whose
// guest is here had come to its end: its note goes.
func (i *importer) tellLeftovers() error {
	left, err := bundle.Leftovers(i.place.Dir)
	if err != nil {
		return err
	}
	for n := range left {
		if err := i.tellLeftover(&left[n]); err != nil {
			return err
		}
	}
	return nil
}

func (i *importer) tellLeftover(l *bundle.Leftover) error {
	if l.Domain == "" {
		tellRemoval(i.Env, l.Path, "", l.Path)
		return nil
	}
	owner, err := i.host.Owner(l.UUID)
	if err != nil {
		return err
	}
	if owner != "" {
		return l.Remove()
	}
	free, used, err := i.unused(l.Images())
	if err != nil {
		return err
	}
	for _, path := range used {
		fmt.Fprintf(i.Err, "virt-rotate: %s was placed by an import that was killed, and is in use: it stays\n", term.Printable(path))
	}
	tellRemoval(i.Env, l.Path, ", an import of "+l.Domain+", which was not defined", append([]string{l.Path}, free...)...)
	return nil
}

// tellRemoval names what is left, and the command that removes it.
func tellRemoval(e *term.Env, path, of string, paths ...string) {
	for n := range paths {
		paths[n] = host.Quoted(paths[n])
	}
	fmt.Fprintf(e.Err, "virt-rotate: %s was left by a run that was killed%s: rm -r %s\n", term.Printable(path), term.Printable(of), term.Printable(strings.Join(paths, " ")))
}

// unused tells which images nobody has that virt-rotate knows of.
func (i *importer) unused(paths []string) (free, used []string, err error) {
	if len(paths) == 0 {
		return nil, nil, nil
	}
	w, err := i.look()
	if err != nil {
		return nil, nil, err
	}
	for _, path := range paths {
		u, err := w.UsersOf(path)
		if err != nil {
			return nil, nil, err
		}
		if nobody(u) {
			free = append(free, path)
		} else {
			used = append(used, path)
		}
	}
	return free, used, nil
}
