package chain

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A fillNote in Store.Fills says that an image is being filled, and that no space was lost in it
// before. It is durable before the image is changed, and goes once the image has all of
// the data. So what is lost in an image that has a note was lost by a filling that was cut off, and the next one
// may give it back; in one without a note it may be what somebody is looking for who has lost a table.
type fillNote struct {
	Version int    `json:"version"`
	Path    string `json:"path"`
	ID      vfs.ID `json:"id"`
}

const fillNoteVersion = 1

// A reclaimer is a target that knows, once it is prepared, how much of its file is
// taken by what nothing refers to.
type reclaimer interface {
	Leaked() int64
	// Reclaim gives all of it back; nothing has been changed since Prepare.
	Reclaim() error
}

func (s *Store) notePath(n Node) string {
	return filepath.Join(s.Fills, fmt.Sprintf("fill-%x.json", sha256.Sum256([]byte(n.Path))))
}

// fillNoted fills the target, which is n and gets the size. A note is there for as long as that takes.
func (s *Store) fillNoted(ctx context.Context, f *fill, n Node, size int64) error {
	f.prepared = func() error { return s.filling(f.to, n) }
	if err := f.begin(ctx, size); err != nil {
		return err
	}
	if err := f.run(ctx); err != nil {
		return err
	}
	return s.filled(f.to, n)
}

// filling gives back what an earlier filling of n has lost, or notes that nothing was lost before this one.
func (s *Store) filling(to Target, n Node) error {
	r, ok := to.(reclaimer)
	if !ok || s.Fills == "" {
		return nil
	}
	noted, err := s.noted(n)
	switch {
	case err != nil:
		return err
	case !noted && r.Leaked() == 0:
		return s.note(n)
	case !noted:
		return nil
	}
	if err := r.Reclaim(); err != nil {
		return fmt.Errorf("%s: giving back what an interrupted merge has left: %w", n.Path, err)
	}
	return nil
}

// noted tells whether there is a note on exactly this image. One that cannot be read is none.
func (s *Store) noted(n Node) (bool, error) {
	data, err := s.FS.ReadFile(s.notePath(n))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var note fillNote
	err = json.Unmarshal(data, &note)
	return err == nil && note == fillNote{fillNoteVersion, n.Path, n.Info.ID}, nil
}

func (s *Store) note(n Node) error {
	data, err := json.MarshalIndent(fillNote{fillNoteVersion, n.Path, n.Info.ID}, "", "  ")
	if err != nil {
		return err
	}
	if err := s.FS.WriteFile(s.notePath(n), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("noting that %s is being filled: %w", n.Path, err)
	}
	return nil
}

// filled forgets the note. What was given up last has to be durable before.
func (s *Store) filled(to Target, n Node) error {
	if _, ok := to.(reclaimer); !ok || s.Fills == "" {
		return nil
	}
	info, err := s.FS.Lstat(s.notePath(n))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = to.Flush()
	}
	if err == nil {
		err = s.FS.RemoveExact(s.notePath(n), info.ID)
	}
	return err
}
