package convert

import (
	"errors"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Hold keeps anybody from writing to the images until they are released.
func Hold(s *chain.Store, nodes []chain.Node) (release func() error, err error) {
	var files []vfs.File
	release = func() error {
		var err error
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
		return err
	}
	for _, n := range nodes {
		f, err := s.FS.Open(n.Path, false)
		if err != nil {
			return nil, errors.Join(err, release())
		}
		files = append(files, f)
		if err := s.Lock(f, vfs.LockRead); err != nil {
			return nil, errors.Join(err, release())
		}
	}
	return release, nil
}
