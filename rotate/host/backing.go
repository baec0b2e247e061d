package host

import (
	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// BackingPath resolves the backing name of a layer as QEMU does. It is "" for a name
// that means no file that could be told.
func BackingPath(l *Layer) string { return chain.BackingPath(l.Path, l.Image.Backing) }
