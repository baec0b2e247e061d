package sr

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
	"github.com/virt-rotate/virt-rotate/vhdbridge/lvm2"
)

// mostVolumes is how many physical volumes a repository may have.
const mostVolumes = 64

// isVolume tells whether a file, or a device, begins as a physical volume or as the image of one.
func isVolume(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, lvm2.LabelBytes)
	n, _ := io.ReadFull(f, head) // less is there: then that
	return bytes.HasPrefix(head[:n], []byte(qcow2Magic)) || lvm2.HasLabel(head[:n])
}

// onVolumes tells whether path is a device, or a file, as a physical volume or a copy of one is.
func onVolumes(r *images.Run, path string) bool {
	info, err := r.Store.FS.Stat(path)
	return err == nil && (info.IsBlock || info.Size > 0)
}

// withVolumes does something with the repository on the physical volumes that are named. They
// are only read.
func withVolumes(r *images.Run, do func(*images.Run, *vhdbridge.Repository) error) error {
	var paths []string
	for _, arg := range r.Args().Slice() {
		path, err := filepath.Abs(arg)
		if err != nil {
			return err
		}
		paths = append(paths, path)
	}
	v, err := vhdbridge.OpenVolumes(r.Store.FS, func(path string) (vfs.File, error) { return openPV(r.Store, path) }, paths...)
	if err != nil {
		return err
	}
	resolve := r.Store.RealPath
	r.Store.FS, r.Store.RealPath = v, func(path string) (string, error) { return realPath(v, path, resolve) }
	err = withRepository(r, v.Dir, func(repo *vhdbridge.Repository) { describe(v, repo) }, do)
	return errors.Join(err, v.Close())
}

// describe tells the repository what its group and its management volume say.
func describe(v *vhdbridge.Volumes, repo *vhdbridge.Repository) {
	repo.Warnings = append(repo.Warnings, v.Warnings...)
	m, err := v.Management()
	if err != nil {
		repo.Warnings = append(repo.Warnings, err.Error())
	}
	if m != nil {
		repo.Name(m.VDIs)
	}
}

// realPath resolves links, of which there are none among volumes.
func realPath(v *vhdbridge.Volumes, path string, resolve func(string) (string, error)) (string, error) {
	if dir := filepath.Clean(path); dir == v.Dir || filepath.Dir(dir) == v.Dir {
		return path, nil
	}
	return resolve(path)
}

// qcow2Magic is how a qcow2 image begins.
const qcow2Magic = "QFI\xfb"

// openPV opens a physical volume, or a copy of one: raw, or as the disk of a qcow2 image.
func openPV(s *chain.Store, path string) (vfs.File, error) {
	f, err := s.FS.Open(path, false)
	if err != nil {
		return nil, err
	}
	magic := make([]byte, len(qcow2Magic))
	if n, _ := f.ReadAt(magic, 0); string(magic[:n]) != qcow2Magic { // an error is told by who reads on
		return f, nil
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	nodes, err := s.Chain(path, "qcow2")
	if err != nil {
		return nil, err
	}
	view, err := s.View(nodes)
	if err != nil {
		return nil, err
	}
	info, err := s.FS.Stat(path)
	if err != nil {
		return nil, errors.Join(err, view.Close())
	}
	return &copyOfPV{vfs.FullReader(view, view.Size()), view, info}, nil
}

// A copyOfPV is a physical volume in an image.
type copyOfPV struct {
	vfs.File
	view *chain.View
	info vfs.Info
}

// Stat is that of the image.
func (c *copyOfPV) Stat() (vfs.Info, error) { return c.info, nil }

// Lock is there already: the image is locked while it is read.
func (c *copyOfPV) Lock(vfs.LockMode) error { return nil }

// Close closes the image.
func (c *copyOfPV) Close() error { return c.view.Close() }
