package vhd

import (
	"errors"
	"fmt"
	"io"
)

// readFull takes a file that ends too early for malformed.
func readFull(r io.ReaderAt, b []byte, off int64, field string) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return malformed(off+int64(n), field, "the file ends here")
	}
	return fmt.Errorf("vhd: read %s at offset %d: %w", field, off, err)
}
