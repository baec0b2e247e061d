package session

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/libvirthost"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/coord/etcd"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// toldFile is where looks keep what libvirt told of snapshots, in the directory of the state.
const toldFile = "snapshots.cache"

// A Look is an open connection for commands that only tell. It may rest on what earlier looks were told, and so it
// can change nothing: nobody gets at what could.
type Look struct {
	Policy   *policy.File
	Observer *observe.Observer

	host    *libvirthost.Looker
	rotator *rotate.Rotator // without a host: it can plan
	store   *etcd.Store     // nil where hosts do not tell each other by one
}

// OpenLook connects as Open does.
func OpenLook(e *term.Env, optional bool) (*Look, error) {
	f, state, err := settings(e, optional)
	if err != nil {
		return nil, err
	}
	host, err := libvirthost.OpenToLook(URI(e, f), filepath.Join(state, toldFile))
	if err != nil {
		return nil, err
	}
	r, store := newRotator(e, f, state, host)
	return &Look{Policy: f, Observer: r.Observer, host: host, rotator: r, store: store}, nil
}

// Close ends all connections.
func (l *Look) Close() error {
	err := l.host.Close()
	if l.store != nil {
		err = errors.Join(err, l.store.Close())
	}
	return err
}

// WithLook opens a look, calls do, and closes it.
func WithLook(e *term.Env, optional bool, do func(*Look) error) error {
	l, err := OpenLook(e, optional)
	if err != nil {
		return err
	}
	return errors.Join(do(l), l.Close())
}

// Assigned looks at the host and returns what is assigned to each domain asked for.
func (l *Look) Assigned(ctx context.Context, names []string) (*observe.World, policy.Assignment, error) {
	w, err := l.Observer.Observe(ctx)
	if err != nil {
		return nil, policy.Assignment{}, err
	}
	a, err := decide.Select(w, l.Policy.MatchGuests, names)
	return w, a, err
}

// Plan tells what a run with these options would do.
func (l *Look) Plan(ctx context.Context, o decide.Options, names []string) ([]decide.Plan, error) {
	l.rotator.Options = o
	plans, _, err := l.rotator.Plan(ctx, names)
	return plans, err
}
