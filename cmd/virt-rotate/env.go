package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/libvirthost"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/engine"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// env is what the commands share: the global flags and where output goes.
type env struct {
	out, err                      io.Writer
	policyPath, connect, stateDir string
	fs                            vfs.FS           // what images are on
	clock                         func() time.Time // what rotation goes by
}

// defaultPolicy is the system's policy file, or the user's own.
func defaultPolicy() string {
	if os.Geteuid() == 0 {
		return "/etc/virt-rotate/policy.toml"
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "policy.toml"
	}
	return filepath.Join(dir, "virt-rotate", "policy.toml")
}

// defaultStateDir is where state is kept when neither flag nor policy says.
func defaultStateDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/virt-rotate", nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "virt-rotate"), nil
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".local", "state", "virt-rotate"), err
}

// loadPolicy reads the policy file.
func loadPolicy(e *env) (*policy.File, error) {
	f, err := policy.Load(e.policyPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, usagef("%w; virt-rotate policy init writes a first one", err)
	}
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	return f, checkOwner(f, e.policyPath)
}

// A session is an open connection with all that rotation needs.
type session struct {
	policy  *policy.File
	host    *libvirthost.Host
	rotator *rotate.Rotator
}

// openSession connects to the host that flag, policy or libvirt's own settings name,
// in this order. A policy that is not there is an error unless optional.
func openSession(e *env, optional bool) (*session, error) {
	f, err := loadPolicy(e)
	if err != nil && (!optional || !errors.Is(err, fs.ErrNotExist)) {
		return nil, err
	}
	if err != nil {
		f = &policy.File{}
	}
	state, err := stateDirOf(e, f)
	if err != nil {
		return nil, err
	}
	host, err := libvirthost.Open(uriOf(e, f))
	if err != nil {
		return nil, err
	}
	store := formats.Store(e.fs, nil)
	store.Ignore = f.Storage.Ignore
	r := &rotate.Rotator{
		Host:     host,
		Observer: &observe.Observer{Host: host, Inspect: formats.Inspect, StateDir: state, Scan: f.Storage.Scan, Ignore: f.Storage.Ignore, Overlays: overlayDirs(f)},
		Engine:   &engine.Native{Store: *store, NewOverlay: formats.NewOverlay(e.fs)},
		Match:    f.Match, Clock: e.clock, Report: newProgress(e.err).report,
	}
	return &session{f, host, r}, nil
}

// uriOf names the host; "" leaves the choice to libvirt.
func uriOf(e *env, f *policy.File) string {
	if e.connect != "" {
		return e.connect
	}
	return f.Connect
}

func stateDirOf(e *env, f *policy.File) (string, error) {
	switch {
	case e.stateDir != "":
		return filepath.Abs(e.stateDir)
	case f.StateDir != "":
		return f.StateDir, nil
	}
	return defaultStateDir()
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

// withSession opens a session, calls do, and closes the session.
func withSession(e *env, optional bool, do func(*session) error) error {
	s, err := openSession(e, optional)
	if err != nil {
		return err
	}
	return errors.Join(do(s), s.host.Close())
}

// assigned looks at the host and returns what is assigned to each domain asked for.
func (s *session) assigned(ctx context.Context, names []string) (*observe.World, policy.Assignment, error) {
	w, err := s.rotator.Observer.Observe(ctx)
	if err != nil {
		return nil, policy.Assignment{}, err
	}
	a, err := observe.Select(w, s.policy.Match, names)
	return w, a, err
}

// outputFlag is --output of every command that prints.
func outputFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Usage: "`FORMAT`: human or json", Value: "human"}
}

// print writes v as JSON, or as human writes it.
func (e *env) print(c *cli.Context, v any, human func(io.Writer)) error {
	switch format := c.String("output"); format {
	case "human":
		human(e.out)
		return nil
	case "json":
		enc := json.NewEncoder(e.out)
		enc.SetIndent("", "    ")
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	default:
		return usagef("--output=%s: want human or json", format)
	}
}

// checkOutput refuses a wrong --output before anything is done.
func checkOutput(c *cli.Context) error {
	if f := c.String("output"); f != "human" && f != "json" {
		return usagef("--output=%s: want human or json", f)
	}
	return nil
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}
