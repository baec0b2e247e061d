//go:build cgo && failpoint

package libvirthost

import (
	"os"
	"time"
)

// copyPatience is VIRT_ROTATE_COPY_PATIENCE, or a minute.
func copyPatience() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("VIRT_ROTATE_COPY_PATIENCE")); err == nil {
		return d
	}
	return time.Minute
}
