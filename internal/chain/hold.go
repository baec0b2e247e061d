package chain

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Hold opens and locks an image as it was when n was looked at. To change it, nobody may
// have it open, and no merge of it may wait for being finished. Closing it gives it back.
func (s *Store) Hold(n Node, change bool) (vfs.File, error) {
	mode := vfs.LockRead
	if change {
		if err := errors.Join(s.lockable(n), s.notMerged(n)); err != nil {
			return nil, err
		}
		mode = vfs.LockWrite
	}
	f, err := s.FS.Open(n.Path, change)
	if err != nil {
		return nil, err
	}
	if err = f.Lock(mode); err == nil {
		err = s.sameAs(f, n)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// sameAs wants the open file to be what n was.
func (s *Store) sameAs(f vfs.File, n Node) error {
	now, err := s.inspect(f, n.Image.Format)
	if err == nil && (now.Info.ID != n.Info.ID || now.Image != n.Image) {
		err = refused(n.Path, "it has changed meanwhile; try again")
	}
	return err
}

// notMerged refuses an image of which a journal notes how it was after a merge.
func (s *Store) notMerged(n Node) error {
	found, err := s.journals([]string{filepath.Dir(n.Path)})
	if err != nil {
		return fmt.Errorf("%s: %w", n.Path, err)
	}
	for _, j := range found {
		for _, f := range append([]journalFile{j.Base}, j.Gone...) {
			if f.ID == n.Info.ID {
				return refused(n.Path, "a merge of %s was interrupted: finish it first, by image commit", j.top().Path)
			}
		}
	}
	return nil
}
