package observe

import (
	"errors"
	"syscall"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// tryClones finds out where files can share extents. What it once found does not change.
func (o *Observer) tryClones(w *World) {
	o.cloneMu.Lock()
	defer o.cloneMu.Unlock()
	if o.canClone == nil {
		o.canClone = map[string]string{}
	}
	try := o.Probes.CanClone
	if try == nil {
		try = vfs.CanClone
	}
	for dir := range w.Dirs {
		why, known := o.canClone[dir]
		if !known {
			err := try(dir)
			if errors.Is(err, syscall.ENOSPC) {
				continue // not known; that no space is left is told by those who need some
			}
			if err != nil {
				why = err.Error()
			}
			o.canClone[dir] = why
		}
		w.CannotClone[dir] = why
	}
}
