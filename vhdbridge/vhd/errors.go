package vhd

import "github.com/virt-rotate/virt-rotate/internal/imgerr"

// A FormatError says that an image breaks the specification or a limit: Format
// ("vhd"), Offset in the file, Field and Reason. It is one type for all formats of
// this module.
type FormatError = imgerr.FormatError

// An UnsupportedError says that an image may be right, but needs something that is not
// implemented, or must not be touched as it is: Format ("vhd") and Feature. It is one
// type for all formats of this module.
type UnsupportedError = imgerr.UnsupportedError

// ErrNotThisFormat is what ErrNotVHD and its like of all formats are.
var ErrNotThisFormat = imgerr.ErrNotThisFormat

// ErrNotVHD says that there is no footer. It is an ErrNotThisFormat.
var ErrNotVHD = imgerr.Not("not a VHD image")

func malformed(offset int64, field, reason string) *FormatError {
	return &FormatError{Format: "vhd", Offset: offset, Field: field, Reason: reason}
}

func unsupported(feature string) *UnsupportedError {
	return &UnsupportedError{Format: "vhd", Feature: feature}
}
