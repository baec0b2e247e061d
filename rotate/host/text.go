package host

import (
	"fmt"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Plural is "1 layer", "2 layers".
func Plural(n int, word string) string {
	if n == 1 {
		return fmt.Sprintf("1 %s", word)
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// Quoted writes a word of a command so that a shell takes it for that word.
func Quoted(word string) string { return vfs.Quoted(word) }

// Bytes writes a number of bytes with a binary unit: "1.5 GiB".
func Bytes(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), -1
	for value >= 1024 && unit < 5 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTPE"[unit])
}
