//go:build failpoint

package cli

import (
	"os"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate"
)

func fileSystem() vfs.FS { return rotate.Mortal(vfs.OS()) }

// clock starts at VIRT_ROTATE_CLOCK, in RFC 3339, and goes as fast as the real one.
func clock() func() time.Time {
	start, err := time.Parse(time.RFC3339, os.Getenv("VIRT_ROTATE_CLOCK"))
	if err != nil {
		return time.Now
	}
	began := time.Now()
	return func() time.Time { return start.Local().Add(time.Since(began)) }
}
