//go:build cgo && !failpoint

package libvirthost

import "time"

// copyPatience is how long a copy may go on without coming nearer to its end.
func copyPatience() time.Duration { return time.Minute }
