package vhd

import "io"

// FindParent reads the parent's path from the header of a damaged image, whose footers
// or table may be beyond reading: from r, which has size bytes. It returns "" and false
// where there is no sound header.
func FindParent(r io.ReaderAt, size int64) (path string, found bool) {
	var b [headerLen]byte
	if size < headerStart+headerLen || readFull(r, b[:], headerStart, "header") != nil {
		return "", false
	}
	h, err := decodeHeader(&b, headerStart)
	if err != nil {
		return "", false
	}
	path, err = h.readParent(r, size, headerStart)
	return path, err == nil && path != ""
}
