//go:build !cgo

package libvirthost

import (
	"github.com/virt-rotate/virt-rotate/rotate"
)

// A Host cannot be had in this build: Open always fails.
type Host struct{ rotate.Host }

// Open returns ErrNoLibvirt.
func Open(string) (*Host, error) { return nil, ErrNoLibvirt }

// Close does nothing.
func (h *Host) Close() error { return nil }
