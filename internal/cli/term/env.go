package term

import (
	"io"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Env is what the commands share: the global flags and where output goes.
type Env struct {
	Out, Err                      io.Writer
	PolicyPath, Connect, StateDir string
	FS                            vfs.FS           // what images are on
	Clock                         func() time.Time // what rotation goes by
}
