// Package imgerr has the kinds of errors that reading an image or an export can end in,
// one for all formats. Formats export them under the names that they have here.
//
//	not this format   ErrNotThisFormat    the magic is missing: try another format
//	malformed         *FormatError        the format's own, but it breaks the specification
//	unsupported       *UnsupportedError   it may be right, but is not worked on
//
// Every other error comes from the file itself.
package imgerr

import (
	"errors"
	"fmt"
)

// ErrNotThisFormat says that a file is not of the format that it was read as. The
// formats wrap it in errors of their own, which name the format.
var ErrNotThisFormat = errors.New("not of this format")

// Not is an error of that text, of which errors.Is says that it is ErrNotThisFormat.
func Not(text string) error { return notThis(text) }

type notThis string

func (e notThis) Error() string { return string(e) }

func (notThis) Is(target error) bool { return target == ErrNotThisFormat }

// A FormatError says that a file breaks the specification of its format, or a limit.
type FormatError struct {
	Format string // "qcow2", "vhd", "xva"
	Offset int64  // of the field, bytes from the start of the file
	Field  string // as the specification calls it
	Reason string
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%s: offset %d: %s: %s", e.Format, e.Offset, e.Field, e.Reason)
}

// An UnsupportedError says that a file may be right, but needs something that is not
// implemented, or must not be touched as it is.
type UnsupportedError struct {
	Format  string
	Feature string
}

func (e *UnsupportedError) Error() string {
	return e.Format + ": unsupported: " + e.Feature
}
