package vhdbridge

import (
	"io"
	"strings"
)

// memoryMarks are at the beginning of what a XenServer host saves when it suspends a
// guest, or takes a snapshot with its memory.
var memoryMarks = []string{"XenSavedDomv2-\n", "XenSavedDomain\n", "LinuxGuestRecord"}

// isMemory tells whether a disk, which is a suspend image by its type in xapi's database
// only, begins as one. What cannot be read is none.
func isMemory(disk io.ReaderAt) bool {
	var b [16]byte
	n, err := disk.ReadAt(b[:], 0)
	if n < len(b) && err != nil {
		return false
	}
	for _, mark := range memoryMarks {
		if strings.HasPrefix(string(b[:]), mark) {
			return true
		}
	}
	return false
}
