// Package srtest makes storage repositories for tests, node by node.
package srtest

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// A Node is a VHD of a repository.
type Node struct {
	Name, Parent string // without extension; no parent makes it a base
	Size         int64  // bytes
	Hidden       bool
	Own          []byte // what it has itself, from its beginning; zeros are left out
	Created      time.Time
	Block        int64 // bytes; 0: as XenServer has them
}

// Write makes the node in dir.
func Write(t testing.TB, dir string, n Node) {
	t.Helper()
	// A program that is started meanwhile has this process's files, and with them their
	// locks, until it is what it is to be: whoever opens the node next would meet those.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := WriteOn(vfs.OS(), dir, n); err != nil {
		t.Fatalf("%s: %v", n.Name, err)
	}
}

// WriteOn makes the node on a file system that may be simulated.
func WriteOn(fsys vfs.FS, dir string, n Node) error {
	o := vhd.CreateOptions{Size: n.Size, UUID: vhd.NewUUID(), Time: n.Created, BlockSize: n.Block}
	if n.Parent != "" {
		id, err := idOf(fsys, filepath.Join(dir, n.Parent+".vhd"))
		if err != nil {
			return err
		}
		o.Backing, o.BackingFormat, o.ParentID = n.Parent+".vhd", "vhd", id
	}
	f, err := fsys.Create(filepath.Join(dir, n.Name+".vhd"), 0o600)
	if err != nil {
		return err
	}
	if err := vhd.Create(f, o); err != nil {
		return err
	}
	image, err := vhd.Open(f)
	if err != nil {
		return err
	}
	return errors.Join(fill(image, n), image.Close())
}

func idOf(fsys vfs.FS, path string) (string, error) {
	f, err := fsys.Open(path, false)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	i, err := vhd.ReadInfo(f, info.Size)
	return i.UUID.String(), err
}

func fill(to chain.Target, n Node) error {
	sink, err := chain.NewSink(to)
	if err == nil {
		err = sink.Write(0, n.Own)
	}
	if err == nil {
		err = sink.Flush()
	}
	if err == nil && n.Hidden {
		err = to.(interface{ SetHidden(yes bool) error }).SetHidden(true)
	}
	return err
}
