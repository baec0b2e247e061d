package vhdbridge

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// An Attachment is where signs are that a repository is in use on this host.
type Attachment struct {
	Proc      string // /proc
	Inventory string // the file that every XenServer host has
	Locks     string // where the storage manager has its locks, a directory for each repository
	Exports   string // what the kernel's NFS server exports
}

// ThisHost is the host that the program runs on.
func ThisHost() Attachment {
	return Attachment{"/proc", "/etc/xensource-inventory", "/var/lock/sm", "/var/lib/nfs/etab"}
}

// Refuse returns a *chain.RefusedError if the repository is in use, or could be: on a
// XenServer host, when the storage manager's locks are held, or while a process has
// one of the nodes open.
func (a Attachment) Refuse(r *Repository) error {
	if _, err := os.Stat(a.Inventory); err == nil {
		return &chain.RefusedError{Path: r.Dir, Reason: "this is a XenServer host (" + a.Inventory + "): whether the repository is attached is not known here; detach it, and work on it from another host"}
	}
	if err := a.refuseLocked(r); err != nil {
		return err
	}
	return a.refuseOpen(r)
}

// refuseLocked tries the storage manager's locks of the repository.
func (a Attachment) refuseLocked(r *Repository) error {
	dir := filepath.Join(a.Locks, filepath.Base(r.Dir))
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if held, err := lockHeld(path); err != nil || held {
			return errors.Join(err, &chain.RefusedError{Path: r.Dir, Reason: "the storage manager has it: the lock " + path + " is held"})
		}
	}
	return nil
}

// lockHeld tells whether a process has a POSIX lock on the file.
func lockHeld(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	l := syscall.Flock_t{Type: syscall.F_WRLCK}
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_GETLK, &l); err != nil {
		return false, err
	}
	return l.Type != syscall.F_UNLCK, nil
}

// refuseOpen looks at what all processes have open.
func (a Attachment) refuseOpen(r *Repository) error {
	nodes := map[vfs.ID]*Node{}
	for _, n := range r.Nodes {
		nodes[n.id] = n
	}
	processes, err := filepath.Glob(filepath.Join(a.Proc, "[0-9]*"))
	if err != nil {
		return err
	}
	for _, p := range processes {
		if filepath.Base(p) == strconv.Itoa(os.Getpid()) {
			continue
		}
		if n := opened(p, nodes); n != nil {
			return &chain.RefusedError{Path: n.Path, Reason: fmt.Sprintf("process %s (%s) has it open", filepath.Base(p), commandOf(p))}
		}
	}
	return nil
}

// opened returns a node that the process has open. A process that is gone, or that
// this user must not look at, has none.
func opened(process string, nodes map[vfs.ID]*Node) *Node {
	entries, err := os.ReadDir(filepath.Join(process, "fd"))
	if err != nil {
		return nil
	}
	for _, e := range entries {
		info, err := vfs.Stat(filepath.Join(process, "fd", e.Name()))
		if n := nodes[info.ID]; err == nil && n != nil {
			return n
		}
	}
	return nil
}

func commandOf(process string) string {
	data, err := os.ReadFile(filepath.Join(process, "comm"))
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(data))
}
