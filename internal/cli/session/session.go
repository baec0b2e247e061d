package session

import (
	"context"
	"errors"
	"io/fs"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/libvirthost"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/coord"
	"github.com/virt-rotate/virt-rotate/rotate/coord/etcd"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/engine"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// A Session is an open connection with all that rotation needs.
type Session struct {
	Policy  *policy.File
	Host    *libvirthost.Host
	Rotator *rotate.Rotator
	store   *etcd.Store // nil where hosts do not tell each other by one
}

// Close ends all connections.
func (s *Session) Close() error {
	err := s.Host.Close()
	if s.store != nil {
		err = errors.Join(err, s.store.Close())
	}
	return err
}

// Open connects to the host that flag, policy or libvirt's own settings name,
// in this order. A policy that is not there is an error unless optional.
func Open(e *term.Env, optional bool) (*Session, error) {
	f, err := LoadPolicy(e)
	if err != nil && (!optional || !errors.Is(err, fs.ErrNotExist)) {
		return nil, err
	}
	if err != nil {
		f = &policy.File{}
	}
	state, err := StateDir(e, f)
	if err != nil {
		return nil, err
	}
	host, err := libvirthost.Open(URI(e, f))
	if err != nil {
		return nil, err
	}
	store := formats.Store(e.FS, nil)
	store.Ignore, store.Fills = f.Storage.Ignore, state
	fleet := &coord.Fleet{StateDir: state, Shared: f.Storage.Shared, Slots: f.Storage.Slots, Clock: e.Clock}
	r := &rotate.Rotator{
		Host: host,
		Observer: &observe.Observer{Host: host, Inspect: formats.Inspect, StateDir: state, Scan: f.Storage.Scan, Ignore: f.Storage.Ignore, Overlays: overlayDirs(f),
			Fleet: fleet, SilentAfter: f.Storage.SilentAfter, Clock: e.Clock},
		Engine: &engine.Native{Store: *store, NewOverlay: formats.NewOverlay(e.FS), Internal: formats.States},
		Mover:  host.Mover(),
		Match:  f.MatchGuests, Clock: e.Clock, Report: term.NewProgress(e.Err).Report,
	}
	s := &Session{Policy: f, Host: host, Rotator: r}
	if c := &f.Coordination; c.Engine == policy.EngineEtcd {
		s.store = etcd.New(etcd.Config{Endpoints: c.Endpoints, CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile,
			User: c.User, PasswordFile: c.PasswordFile, Prefix: c.Prefix})
		fleet.Store = s.store
	}
	return s, nil
}

// overlayDirs lists the overlay directories of all policies.
func overlayDirs(f *policy.File) []string {
	var dirs []string
	for i := range f.Rules {
		if d := f.Rules[i].OverlayDir; d != "" && !slices.Contains(dirs, d) {
			dirs = append(dirs, d)
		}
	}
	return dirs
}

// With opens a session, calls do, and closes the session.
func With(e *term.Env, optional bool, do func(*Session) error) error {
	s, err := Open(e, optional)
	if err != nil {
		return err
	}
	return errors.Join(do(s), s.Close())
}

// Assigned looks at the host and returns what is assigned to each domain asked for.
func (s *Session) Assigned(ctx context.Context, names []string) (*observe.World, policy.Assignment, error) {
	w, err := s.Rotator.Observer.Observe(ctx)
	if err != nil {
		return nil, policy.Assignment{}, err
	}
	a, err := decide.Select(w, s.Policy.MatchGuests, names)
	return w, a, err
}
