package chain

import (
	"context"
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

// A commit that is under way is written down beside its top layer. What has to
// be known after a crash is whether the base holds all of the top: until then
// the merge is done again, from then on it must not be, since the base or a child
// may have newer data by now.
type journal struct {
	Version int         `json:"version"`
	Base    journalFile `json:"base"`
	Gone    []journalFile
	Keep    bool     `json:"keep,omitempty"`
	Scan    []string `json:"scan,omitempty"` // directories that may have images on the top
	// Merged tells that the base holds everything; Base and Gone say how the files
	// were then.
	Merged bool `json:"merged"`

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

func journalPath(top string) string {
	return filepath.Join(filepath.Dir(top), journalPrefix+filepath.Base(top)+journalSuffix)
}

func newJournal(m *Merge) *journal {
	j := &journal{Version: journalVersion, Base: fileOf(m.Base), Keep: m.Keep, Scan: m.Scan, path: journalPath(m.Top().Path)}
	for _, n := range m.Gone {
		j.Gone = append(j.Gone, fileOf(n))
	}
	return j
}

func fileOf(n Node) journalFile {
	return journalFile{n.Path, n.Image.Format, n.Info.ID, n.Info.Size, n.Info.ModTime}
}

func (j *journal) top() journalFile { return j.Gone[len(j.Gone)-1] }

func (s *Store) writeJournal(j *journal) error {
	data, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return err
	}
	if err := s.FS.WriteFile(j.path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// markMerged notes that the base holds everything, and how the files are now.
func (s *Store) markMerged(j *journal, m *Merge) error {
	j.Merged = true
	for i, n := range append([]Node{m.Base}, m.Gone...) {
		info, err := s.FS.Stat(n.Path)
		if err != nil {
			return err
		}
		f := &j.Base
		if i > 0 {
			f = &j.Gone[i-1]
		}
		f.Size, f.ModTime = info.Size, info.ModTime
	}
	return s.writeJournal(j)
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
	for _, dir := range dirs {
		names, err := s.FS.ReadDir(dir)
		if err != nil {
			return tops, err
		}
		for _, name := range names {
			if !strings.HasPrefix(name, journalPrefix) || !strings.HasSuffix(name, journalSuffix) {
				continue
			}
			j, err := s.readJournal(filepath.Join(dir, name))
			if err != nil {
				return tops, err
			}
			if err := s.resume(ctx, j, done); err != nil {
				return tops, fmt.Errorf("finishing an interrupted commit of %s: %w", j.top().Path, err)
			}
			tops = append(tops, j.top().Path)
		}
	}
	return tops, nil
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

// resume does the merge again, or what is left after it.
func (s *Store) resume(ctx context.Context, j *journal, done func(int64)) error {
	if !j.Merged {
		return s.again(ctx, j, done)
	}
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

// again merges once more. If the top is gone there is nothing to merge.
func (s *Store) again(ctx context.Context, j *journal, done func(int64)) error {
	if _, err := s.FS.Stat(j.top().Path); errors.Is(err, fs.ErrNotExist) {
		return s.dropJournal(j.path)
	}
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
	users, err := s.users(m.Gone, dirsOf(append([]Node{base}, m.Gone...), j.Scan))
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
