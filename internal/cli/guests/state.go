package guests

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// snapshotHelp tells in help texts how a snapshot is named.
const snapshotHelp = `SNAPSHOT is a name or the beginning of one; latest or oldest; -1, which is the latest,
-2, the one before, and so on; today, yesterday or a date such as 2026-11-22, which is
the last one of that day.

`

// snapshotNodes asks libvirt, and gives the connection back: copying may take hours.
func snapshotNodes(r *images.Run) (nodes []chain.Node, err error) {
	err = session.With(r.Env, true, func(s *session.Session) error {
		nodes, err = stateNodes(r, s)
		return err
	})
	return nodes, err
}

// stateNodes finds the layers of the disk that the command line names.
func stateNodes(r *images.Run, s *session.Session) ([]chain.Node, error) {
	if s.Host.Remote() {
		return nil, &chain.RefusedError{Path: r.Arg(0), Reason: "the connection is to another host: run virt-rotate there"}
	}
	w, err := s.Rotator.Observer.Observe(r.Ctx())
	if err != nil {
		return nil, err
	}
	d, snapshot, err := w.Named(r.Arg(0), r.Arg(1), r.Clock())
	if err != nil {
		return nil, term.Usagef("%w", err)
	}
	tellMeant(r.Env, r.Arg(1), snapshot.Name)
	if err := decide.Intact(w, d, snapshot.Name); err != nil {
		return nil, err
	}
	state, err := chooseState(r, d.States(snapshot))
	if err != nil {
		return nil, err
	}
	if state.Written && d.State.Live() {
		return nil, &chain.RefusedError{Path: state.Path, Reason: "the guest writes to it: it does not hold the state of the snapshot any more"}
	}
	r.Store.Named = append(slices.Clone(state.Chain), state.Path)
	for _, path := range r.Store.Named {
		r.Store.Allow = append(r.Store.Allow, filepath.Dir(path))
	}
	return r.Readable(state.Path, state.Format)
}

// tellMeant tells which snapshot it is, where that was not written out.
func tellMeant(e *term.Env, text, name string) {
	if text != name {
		fmt.Fprintf(e.Err, "virt-rotate: %s is %s\n", text, term.Printable(name))
	}
}

// chooseState takes the disk that --disk names, or the only one.
func chooseState(r *images.Run, states []host.StateLayer) (*host.StateLayer, error) {
	var targets []string
	for i := range states {
		if states[i].Target == r.String("disk") || len(states) == 1 && r.String("disk") == "" {
			return &states[i], nil
		}
		targets = append(targets, states[i].Target)
	}
	switch {
	case len(states) == 0:
		return nil, &chain.RefusedError{Path: r.Arg(1), Reason: "the snapshot has no layers of its own: it is internal, or of memory only"}
	case r.String("disk") == "":
		return nil, term.Usagef("the snapshot has several disks: name one with --disk (%s)", strings.Join(targets, ", "))
	}
	return nil, term.Usagef("--disk %s: the snapshot has %s", r.String("disk"), strings.Join(targets, ", "))
}
