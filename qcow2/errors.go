package qcow2

import "github.com/virt-rotate/virt-rotate/internal/imgerr"

// A FormatError says that an image breaks the specification or a limit of QEMU:
// Format ("qcow2"), Offset in the file, Field and Reason. It is one type for all
// formats of this module.
type FormatError = imgerr.FormatError

// An UnsupportedError says that an image may be right, but needs something that is not
// implemented, or must not be changed as it is: Format ("qcow2") and Feature. It is one
// type for all formats of this module.
type UnsupportedError = imgerr.UnsupportedError

// ErrNotThisFormat is what ErrNotQcow2 and its like of all formats are.
var ErrNotThisFormat = imgerr.ErrNotThisFormat

// ErrNotQcow2 says that the magic is missing. It is an ErrNotThisFormat.
var ErrNotQcow2 = imgerr.Not("not a qcow2 image")

func malformed(offset int64, field, reason string) *FormatError {
	return &FormatError{Format: "qcow2", Offset: offset, Field: field, Reason: reason}
}

func unsupported(feature string) *UnsupportedError {
	return &UnsupportedError{Format: "qcow2", Feature: feature}
}
