package session

import (
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/libvirthost"
	"github.com/virt-rotate/virt-rotate/internal/starthook"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/coord"
	"github.com/virt-rotate/virt-rotate/rotate/coord/etcd"
	"github.com/virt-rotate/virt-rotate/rotate/engine"
	"github.com/virt-rotate/virt-rotate/rotate/host"
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
	f, state, err := settings(e, optional)
	if err != nil {
		return nil, err
	}
	host, err := libvirthost.Open(URI(e, f))
	if err != nil {
		return nil, err
	}
	r, store := newRotator(e, f, state, host)
	r.Host, r.Mover = host, host.Mover()
	return &Session{Policy: f, Host: host, Rotator: r, store: store}, nil
}

// settings are the policy and the directory of the state.
func settings(e *term.Env, optional bool) (f *policy.File, state string, err error) {
	f, err = LoadPolicy(e)
	if err != nil && (!optional || !errors.Is(err, fs.ErrNotExist)) {
		return nil, "", err
	}
	if err != nil {
		f = &policy.File{}
	}
	state, err = StateDir(e, f)
	return f, state, err
}

// newRotator is one that looks at what look tells, and has nothing to change a host with. The store is nil where hosts
// do not tell each other by one.
func newRotator(e *term.Env, f *policy.File, state string, look host.Looker) (*rotate.Rotator, *etcd.Store) {
	o, coordination := observer(e, f, state)
	o.Host = look
	fsys := vfs.Alone(e.FS, o.Alone)
	store := formats.Store(fsys, nil)
	store.Ignore, store.Fills = f.Storage.Ignore, state
	return &rotate.Rotator{
		Observer: o,
		Engine:   &engine.Native{Store: *store, NewOverlay: formats.NewOverlay(fsys), Internal: formats.States},
		Match:    f.MatchGuests, Clock: e.Clock, Report: term.NewProgress(e.Err).Report,
	}, coordination
}

// observer looks at the host as the policy says, and at what other hosts tell; store is nil where hosts do not tell each other by
// one.
func observer(e *term.Env, f *policy.File, state string) (o *observe.Observer, store *etcd.Store) {
	fleet := &coord.Fleet{StateDir: state, Shared: f.Storage.Shared, Slots: f.Storage.Slots, Clock: e.Clock, Asks: starthook.Hook{StateDir: state}.Asks}
	if c := &f.Coordination; c.Engine == policy.EngineEtcd {
		store = etcd.New(etcd.Config{Endpoints: c.Endpoints, CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile,
			User: c.User, PasswordFile: c.PasswordFile, Prefix: c.Prefix})
		fleet.Store = store
	}
	return &observe.Observer{Inspect: formats.Inspect, StateDir: state, Scan: f.Storage.Scan, Ignore: f.Storage.Ignore, Overlays: overlayDirs(f),
		Fleet: fleet, SilentAfter: f.Storage.SilentAfter, Clock: e.Clock}, store
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

// WithFleet calls do with what asks the other hosts, for at most that long each, and has no connection to libvirt: it is for libvirt's
// hooks, during which that must not be asked.
func WithFleet(e *term.Env, wait time.Duration, do func(*observe.Observer) error) error {
	f, state, err := settings(e, false)
	if err != nil {
		return err
	}
	o, store := observer(e, f, state)
	o.Fleet.Wait = wait
	err = do(o)
	if store != nil {
		err = errors.Join(err, store.Close())
	}
	return err
}
