package chain

import (
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A user is an image that builds on a layer.
type user struct {
	Node
	on vfs.ID
}

// users looks in dirs for images that build on one of nodes, without nodes
// themselves. What could build on one and cannot be read is an error: in doubt
// nothing is written.
func (s *Store) users(nodes []Node, dirs []string) ([]user, error) {
	var found []user
	seen := map[vfs.ID]bool{}
	for _, n := range nodes {
		seen[n.Info.ID] = true
	}
	for _, dir := range dirs {
		names, err := s.FS.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			u, err := s.user(filepath.Join(dir, name), seen)
			if err != nil {
				return nil, err
			}
			if u != nil && slices.ContainsFunc(nodes, func(n Node) bool { return n.Info.ID == u.on }) {
				found = append(found, *u)
			}
		}
	}
	return found, nil
}

// user looks at one file; nil if it builds on nothing.
func (s *Store) user(path string, seen map[vfs.ID]bool) (*user, error) {
	f, err := s.FS.Open(path, false)
	var kind *vfs.KindError
	if errors.As(err, &kind) || errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, doubt(path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if seen[info.ID] {
		return nil, nil
	}
	seen[info.ID] = true
	n, err := s.inspect(f, "")
	var unknown *UnknownFormatError
	if errors.As(err, &unknown) {
		return nil, RefuseForeign(path, f) // a raw disk, or no image at all, builds on nothing
	}
	if err != nil {
		return nil, doubt(path, err)
	}
	return s.userOf(n)
}

// A QED header, as far as it tells what builds on another image; QEMU
// docs/interop/qed_spec, little endian.
const (
	qedMagic    = 0x00444551 // "QED\0"
	qedFeatures = 16         // offset of 64 bits
	qedBacking  = 1 << 0     // of the features: it has a backing file
	qedHeader   = 24         // bytes up to there
)

// RefuseForeign returns a *RefusedError if r, the file at path, holds an overlay in a
// format that is not read here, QED, and so could build on any raw or qcow2 image.
// Overlays of VMDK, VHD and VHDX build on images of their own format only.
func RefuseForeign(path string, r io.ReaderAt) error {
	var h [qedHeader]byte
	if n, err := r.ReadAt(h[:], 0); n < len(h) {
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
	le := binary.LittleEndian
	if le.Uint32(h[:]) == qedMagic && le.Uint64(h[qedFeatures:])&qedBacking != 0 {
		return refused(path, "it is an overlay in the format QED, and what it builds on is not known; convert it (qemu-img convert) or move it away")
	}
	return nil
}

func doubt(path string, err error) error {
	return because(refused(path, "it could build on the layers concerned, but cannot be read"), err)
}

func (s *Store) userOf(n Node) (*user, error) {
	if n.Image.Backing == "" {
		return nil, nil
	}
	path, ok := PlainPath(n.Path, n.Image.Backing)
	if !ok && strings.HasPrefix(n.Image.Backing, "json:") {
		return nil, refused(n.Path, "what it builds on is not known: %q", n.Image.Backing)
	}
	if !ok {
		return nil, nil // storage of another kind
	}
	info, err := s.FS.Stat(path)
	var kind *vfs.KindError
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.As(err, &kind):
		return nil, nil // it builds on nothing that is there
	case err != nil:
		return nil, doubt(n.Path, err)
	}
	return &user{n, info.ID}, nil
}

// dirsOf lists the directories of nodes and extra, each once.
func dirsOf(nodes []Node, extra []string) []string {
	var dirs []string
	for _, n := range nodes {
		if n.Info.IsBlock {
			continue // device nodes are no place for images
		}
		dirs = append(dirs, filepath.Dir(n.Path))
	}
	dirs = append(dirs, extra...)
	slices.Sort(dirs)
	return slices.Compact(dirs)
}
