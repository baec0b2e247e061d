//go:build !failpoint

package cli

import (
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// fileSystem is what the image engine works on. Built with the tag failpoint, the
// process can be made to die before any of its changes.
func fileSystem() vfs.FS { return vfs.OS() }

// clock tells the time. Built with the tag failpoint, it can be another one.
func clock() func() time.Time { return time.Now }
