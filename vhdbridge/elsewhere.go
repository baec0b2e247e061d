package vhdbridge

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Other hosts can have a repository attached without a sign of it here: a tapdisk marks a
// footer only when it resumes after a pause. So where other hosts can be, somebody has to
// say that none has it, and what a host leaves in passing is looked for all the same.

// freshFor is how long after the last write a repository is taken for one in use: guests
// seldom write nothing at all for so long.
const freshFor = 2 * time.Minute

// Shared tells how other hosts can have the directory: "nfs4", …; "" if they cannot, as far
// as this host knows.
func (a Attachment) Shared(dir string) (string, error) {
	kind, err := vfs.SharedKind(dir)
	if err != nil {
		return "", err
	}
	if kind != "" {
		return "on a file system that other hosts can have, too (" + kind + ")", nil
	}
	exported, err := a.exported(dir)
	if exported != "" {
		return "exported by this host's NFS server (" + exported + ")", err
	}
	return "", err
}

// exported is what this host's NFS server exports of the directory. Lines of the kernel's
// table begin with the path, and blanks in it are written \040.
func (a Attachment) exported(dir string) (string, error) {
	data, err := os.ReadFile(a.Exports)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if actual, err := filepath.EvalSymlinks(dir); err == nil {
		dir = actual
	}
	for line := range strings.Lines(string(data)) {
		path := strings.ReplaceAll(strings.SplitN(strings.TrimSpace(line), "\t", 2)[0], `\040`, " ")
		rel, err := filepath.Rel(path, dir)
		if err == nil && filepath.IsAbs(path) && rel != ".." && !strings.HasPrefix(rel, "../") {
			return path, nil
		}
	}
	return "", nil
}

// Elsewhere returns a *chain.RefusedError if another host seems to have the repository
// attached: a file in it was written to a moment ago. An *UndetachedError means that one
// could, and nobody has said that none does.
func (a Attachment) Elsewhere(r *Repository, now time.Time, detached bool) error {
	how, err := a.Shared(r.Dir)
	if err != nil || how == "" {
		return err
	}
	if text := freshFile(r.Dir, now); text != "" {
		return &chain.RefusedError{Path: r.Dir, Reason: "it is " + how + ", and " + text + ": a host seems to have it attached, or this command " +
			"was interrupted just now; nothing may write to it for " + freshFor.String()}
	}
	if detached {
		return nil
	}
	return &UndetachedError{r.Dir, how, r.signs()}
}

// An UndetachedError asks for somebody's word that no other host uses a repository.
type UndetachedError struct {
	Dir, How string
	signs    []string // of a host that may be at work
}

func (e *UndetachedError) Error() string {
	text := fmt.Sprintf("%s: it is %s: whether one has it attached cannot be seen here; detach it from every XenServer host (xe pbd-unplug), "+
		"or shut down all guests that have disks in it, and say so with --detached", e.Dir, e.How)
	for _, sign := range e.signs {
		text += "; " + sign
	}
	return text
}

// signs are what a host leaves that is at work, or has crashed.
func (r *Repository) signs() (signs []string) {
	if len(r.Journals) > 0 {
		signs = append(signs, "there are journals of a collector, which may be at work")
	}
	entries, _ := os.ReadDir(r.Dir) // what is not seen is no sign
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".nfs") {
			return append(signs, e.Name()+" is a file that a client of NFS has deleted and still has open, or had when it crashed")
		}
	}
	return signs
}

// Unwrap makes it a refusal.
func (e *UndetachedError) Unwrap() error {
	return &chain.RefusedError{Path: e.Dir, Reason: "not detached"}
}

// Fresh tells which file of the repository was written to just now, where other hosts can
// have it; "" if none was.
func (a Attachment) Fresh(r *Repository, now time.Time) string {
	if how, err := a.Shared(r.Dir); err != nil || how == "" {
		return ""
	}
	return freshFile(r.Dir, now)
}

// freshFile finds a file that was written to within freshFor. Clocks of two hosts differ: what
// is of the future was just written, too.
func freshFile(dir string, now time.Time) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || e.Name() == LockName {
			continue
		}
		if age := now.Sub(info.ModTime()); age < freshFor {
			return fmt.Sprintf("%s was written to %s ago", e.Name(), max(age, 0).Round(time.Second))
		}
	}
	return ""
}

// LockName is the file that keeps two runs from one repository.
const LockName = ".virt-rotate-sr.lock"
