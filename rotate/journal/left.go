package journal

import (
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A LeftFile is what was found at a path that an intent names.
type LeftFile struct {
	ID        vfs.ID
	Allocated int64
	ModTime   time.Time
	Blank     bool // holds no guest data
	NoHeader  bool // begins with zeros, as an overlay of ours does until its header is written, which comes last
	InUse     bool // a process has it open with QEMU's image locks
	Written   bool // a process may write to it, by those locks
}
