package vhdbridge

import (
	"errors"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// Released is what became of the marks of use in a repository.
type Released struct {
	Nodes  []string  // that have a footer at their end again
	Failed []Spoiled // that were left as they are
}

// Release takes the marks of use off all nodes, where the file that has one is sound
// otherwise and nobody has it open; or tells of which it would. That no host uses the
// repository is up to the caller. At a crash each node has its mark or its footer.
func Release(s *chain.Store, r *Repository, dry bool) (done Released) {
	for _, n := range r.Nodes {
		if n.Format != formatVHD {
			continue
		}
		needed, err := release(s, n.Path, dry)
		switch {
		case err != nil && (needed || n.InUse || n.noEnd):
			done.Failed = append(done.Failed, Spoiled{Node: n.Name, Reason: err.Error()})
		case err == nil && needed:
			done.Nodes = append(done.Nodes, n.Name)
		}
	}
	return done
}

// release tells whether the image at path needs it, too.
func release(s *chain.Store, path string, dry bool) (needed bool, err error) {
	f, err := s.FS.Open(path, false)
	if err != nil {
		return false, err
	}
	size, err := f.Size()
	if err == nil {
		needed, err = vhd.NeedsRelease(f, size)
	}
	if err = errors.Join(err, f.Close()); err != nil || !needed {
		return needed, err
	}
	if f, err = s.FS.Open(path, !dry); err != nil {
		return needed, err
	}
	mode := vfs.LockWrite
	if dry {
		mode = vfs.LockRead
	}
	if err = f.Lock(mode); err == nil && !dry {
		err = vhd.Release(f)
	}
	return needed, errors.Join(err, f.Close())
}
