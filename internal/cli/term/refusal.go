package term

import (
	"errors"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/vhdbridge/xva"
)

// IsRefusal tells whether err means that something would not be safe, or is not
// what this program works on, and was left alone.
func IsRefusal(err error) bool {
	var refused *chain.RefusedError
	var busy *vfs.BusyError
	var kind *vfs.KindError
	var changed *vfs.ChangedError
	var claimed *vfs.ClaimedError
	var local *vfs.LocalLocksError
	var unknown *chain.UnknownFormatError
	var destroyed *decide.DestroyedError
	return errors.As(err, &refused) || errors.As(err, &destroyed) || errors.As(err, &unknown) || errors.As(err, &busy) || errors.As(err, &kind) ||
		errors.As(err, &changed) || errors.As(err, &local) || errors.As(err, &claimed) || formats.Unsupported(err) || errors.Is(err, xva.ErrNotXVA)
}
