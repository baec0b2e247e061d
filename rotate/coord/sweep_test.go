package coord_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/coord"
)

// What hosts leave that die within a write goes a day later; a write that is under way, and whatever else is there, stays.
func TestWhatDeadHostsLeaveGoes(t *testing.T) {
	f := newFleet(t, 2)
	tellAll := func(i int) { tell(t, f.at(i), told("web")) }
	tellAll(0)
	dir := filepath.Join(f.dir, coord.Subdirectory)
	must(os.MkdirAll(filepath.Join(dir, "guests"), 0o700))
	old := time.Now().Add(-25 * time.Hour)
	for name, age := range map[string]time.Time{
		".virt-rotate-1.tmp": old, "guests/.virt-rotate-2.tmp": old, "guests/.virt-rotate-3.tmp": time.Now(), "guests/u.json": old, "notes": old,
	} {
		must(os.WriteFile(filepath.Join(dir, name), nil, 0o600))
		must(os.Chtimes(filepath.Join(dir, name), age, age))
	}
	tellAll(1)
	for name, stays := range map[string]bool{
		".virt-rotate-1.tmp": false, "guests/.virt-rotate-2.tmp": false, "guests/.virt-rotate-3.tmp": true, "guests/u.json": true, "notes": true, "storage.json": true,
	} {
		if _, err := os.Lstat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) == stays {
			t.Errorf("%s: %v", name, err)
		}
	}
}
