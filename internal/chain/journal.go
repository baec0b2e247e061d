package chain

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A journal says that the base of a commit holds all of the top, and how the files
// were then. It lies beside the top layer until that is deleted. Until the base
// holds everything, a commit that was interrupted is simply done again; from then
// on it must not be, since the base or a child may have newer data.
type journal struct {
	Version int           `json:"version"`
	Base    journalFile   `json:"base"`
	Gone    []journalFile `json:"gone"` // lowest first
	Keep    bool          `json:"keep,omitempty"`
	Scan    []string      `json:"scan,omitempty"` // directories that may have images on the top

	path string
}

// A journalFile names one file, and how it was last seen.
type journalFile struct {
	Path    string    `json:"path"`
	Format  string    `json:"format"`
	ID      vfs.ID    `json:"id"`
	Size    int64     `json:"size"`
	ModTime time.Time `json:"mtime"`
}

const journalVersion = 1

// journalPrefix and journalSuffix are around the name of the top layer.
const (
	journalPrefix = ".virt-rotate-commit-"
	journalSuffix = ".json"
)

// maxName is how long a file name may be on the file systems of Linux, in bytes.
const maxName = 255

func journalPath(top string) string {
	dir, name := filepath.Split(top)
	if len(journalPrefix)+len(name)+len(journalSuffix) > maxName {
		name = fmt.Sprintf("%x", sha256.Sum256([]byte(name)))
	}
	return filepath.Join(dir, journalPrefix+name+journalSuffix)
}

func (j *journal) top() journalFile { return j.Gone[len(j.Gone)-1] }

// markMerged notes that the base holds everything, and how the files are now.
func (s *Store) markMerged(m *Merge) error {
	j := journal{Version: journalVersion, Keep: m.Keep, Scan: m.Scan}
	var err error
	if j.Base, err = s.asItIs(m.Base); err != nil {
		return err
	}
	for _, n := range m.Gone {
		f, err := s.asItIs(n)
		if err != nil {
			return err
		}
		j.Gone = append(j.Gone, f)
	}
	data, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return err
	}
	if err := s.FS.WriteFile(journalPath(j.top().Path), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

func (s *Store) asItIs(n Node) (journalFile, error) {
	info, err := s.FS.Stat(n.Path)
	return journalFile{n.Path, n.Image.Format, n.Info.ID, info.Size, info.ModTime}, err
}

func (s *Store) dropJournal(path string) error {
	info, err := s.FS.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.FS.RemoveExact(path, info.ID)
}

// Recover finishes the commits that were interrupted in the directories, and
// returns the top layers concerned.
func (s *Store) Recover(ctx context.Context, dirs []string, done func(n int64)) (tops []string, err error) {
	journals, err := s.journals(dirs)
	if err != nil {
		return nil, err
	}
	for _, j := range journals {
		if err := s.resume(ctx, j, done); err != nil {
			return tops, fmt.Errorf("finishing an interrupted commit of %s (%s): %w", j.top().Path, j.path, err)
		}
		tops = append(tops, j.top().Path)
	}
	return tops, nil
}

// Interrupted lists the top layers of the commits in dirs that Recover would
// finish. It changes nothing.
func (s *Store) Interrupted(dirs []string) (tops []string, err error) {
	journals, err := s.journals(dirs)
	for _, j := range journals {
		tops = append(tops, j.top().Path)
	}
	return tops, err
}

// journals reads all journals in dirs.
func (s *Store) journals(dirs []string) (found []*journal, err error) {
	for _, dir := range dirs {
		names, err := s.FS.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if !strings.HasPrefix(name, journalPrefix) || !strings.HasSuffix(name, journalSuffix) {
				continue
			}
			j, err := s.readJournal(filepath.Join(dir, name))
			if err != nil {
				return nil, err
			}
			found = append(found, j)
		}
	}
	return found, nil
}

func (s *Store) readJournal(path string) (*journal, error) {
	data, err := s.FS.ReadFile(path)
	if err != nil {
		return nil, err
	}
	j := &journal{path: path}
	if err := json.Unmarshal(data, j); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if j.Version != journalVersion || len(j.Gone) == 0 || journalPath(j.top().Path) != path {
		return nil, fmt.Errorf("%s: not a journal of this version of virt-rotate", path)
	}
	return j, nil
}

// resume does what is left after a merge, or all of it again.
func (s *Store) resume(ctx context.Context, j *journal, done func(int64)) error {
	topChanged, err := s.changed(j.top())
	if err != nil {
		return err
	}
	baseChanged, err := s.changed(j.Base)
	switch {
	case err != nil:
		return err
	case topChanged && baseChanged:
		return refused(j.top().Path, "it was merged into %s, but not deleted, and both have changed since: compare them, delete the one that is not needed, and %s", j.Base.Path, j.path)
	case topChanged:
		return s.again(ctx, j, done)
	}
	return s.tidy(j)
}

// changed tells whether a file is another one than it was, or written to. One
// that is gone has not changed.
func (s *Store) changed(f journalFile) (bool, error) {
	info, err := s.FS.Stat(f.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return info.ID != f.ID || info.Size != f.Size || !info.ModTime.Equal(f.ModTime), err
}

// again merges once more.
func (s *Store) again(ctx context.Context, j *journal, done func(int64)) error {
	m, err := s.PlanCommit(ctx, CommitRequest{Top: j.top().Path, Format: j.top().Format, Base: j.Base.Path, Keep: j.Keep, Scan: j.Scan})
	if err != nil {
		return err
	}
	if m.Base.Info.ID != j.Base.ID || m.Top().Info.ID != j.top().ID {
		return refused(j.top().Path, "it is not the file that was being merged any more; delete %s if that is as it should be", j.path)
	}
	return s.Commit(ctx, m, done)
}

// tidy relinks what still builds on the top, and deletes what was merged.
func (s *Store) tidy(j *journal) error {
	base, err := s.Node(j.Base.Path, j.Base.Format)
	if err != nil {
		return err
	}
	m := &Merge{Base: base, Keep: j.Keep}
	for _, f := range j.Gone {
		m.Gone = append(m.Gone, Node{Path: f.Path, Info: vfs.Info{ID: f.ID}, Image: Image{Format: f.Format}})
	}
	users, err := s.users(m.Gone, nil, dirsOf(append([]Node{base}, m.Gone...), j.Scan))
	if err != nil {
		return err
	}
	for _, u := range users {
		switch {
		case m.isGone(u.Info.ID):
		case u.on == m.Top().Info.ID:
			m.Children = append(m.Children, u.Node)
		default:
			return refused(u.Path, "it builds on a layer that was merged and is to be deleted, %s", nodeOf(m.Gone, u.on).Path)
		}
	}
	o, err := s.openAll(m.Children, func(Node) access { return toWrite })
	if err != nil {
		return err
	}
	unlock, err := s.lockGone(j)
	if err == nil {
		err = s.relink(m, o)
	}
	if err == nil {
		err = s.finish(m)
	}
	return errors.Join(err, unlock(), o.Close())
}

// lockGone locks what is about to be deleted: a guest that has been started on it
// keeps it. Files that are gone need no lock.
func (s *Store) lockGone(j *journal) (unlock func() error, err error) {
	var files []vfs.File
	unlock = func() error {
		var errs []error
		for _, f := range files {
			errs = append(errs, f.Close())
		}
		return errors.Join(errs...)
	}
	for _, g := range j.Gone {
		f, err := s.FS.Open(g.Path, false)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return unlock, err
		}
		files = append(files, f)
		if err := f.Lock(vfs.LockRead); err != nil {
			return unlock, err
		}
	}
	return unlock, nil
}

func (m *Merge) isGone(id vfs.ID) bool {
	return slices.ContainsFunc(m.Gone, func(n Node) bool { return n.Info.ID == id })
}
