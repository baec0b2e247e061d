package chain

import (
	"path/filepath"
	"strings"
)

// Interrupted lists the top layers of the commits in dirs that Recover would
// finish. It changes nothing.
func (s *Store) Interrupted(dirs []string) (tops []string, err error) {
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
			tops = append(tops, j.top().Path)
		}
	}
	return tops, nil
}
