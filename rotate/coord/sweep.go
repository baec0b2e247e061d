package coord

import (
	"os"
	"path/filepath"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// sweepAfter is how old a temporary file has to be to be nobody's: a write takes moments.
const sweepAfter = 24 * time.Hour

// sweep takes away temporary files of hosts that died while they wrote a record, once in the life of this process. They
// hold nothing that is needed, and cost nothing but room: what cannot be removed stays.
func (s *share) sweep() {
	if s.swept || s.placeless() {
		return
	}
	s.swept = true
	told, err := vfs.Lstat(s.path("hosts")) // written last by the storage's own clock, like all that is compared with it
	if err != nil {
		return
	}
	for _, below := range []string{"", "guests", "moves", "snapshots"} {
		found, _ := filepath.Glob(s.path(filepath.Join(below, vfs.TempPattern)))
		for _, path := range found {
			if info, err := vfs.Lstat(path); err == nil && info.Mode.IsRegular() && told.ModTime.Sub(info.ModTime) > sweepAfter {
				_ = os.Remove(path)
			}
		}
	}
}
