//go:build cgo

package libvirthost

import (
	"errors"
	"strings"

	"libvirt.org/go/libvirt"
)

// A hostError is an error of libvirt in libvirt's words, without the codes
// that its bindings print.
type hostError struct {
	text string
	err  error
}

func (e *hostError) Error() string { return e.text }
func (e *hostError) Unwrap() error { return e.err }

// plain makes *err read well, if it is an error of libvirt.
func plain(err *error) {
	var v libvirt.Error
	if errors.As(*err, &v) {
		*err = &hostError{strings.ReplaceAll((*err).Error(), v.Error(), v.Message), *err}
	}
}
