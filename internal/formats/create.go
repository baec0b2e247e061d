package formats

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// New says of a new image what all formats know.
type New struct {
	Size                   int64 // bytes that the guest sees
	Backing, BackingFormat string
	ID                     string     // of the image, of Format.NewID; "": a random one, where images have one
	Room                   chain.Room // for what is not written yet; the maker leaves it to chain.MakeRoom
	ParentID               string     // of the backing file, if it has an identity
}

// A Maker makes one new image, and knows what only images of its format can be told.
type Maker interface {
	// Set takes over an option of Format.Options that is none of all formats.
	Set(key, value string) error
	// Create writes an empty image into an empty file.
	Create(f vfs.File, n New) error
	// Text is what qemu-img create writes of the options. Size is as it was told.
	Text(n New, size int64) string
}

// units are the suffixes of qemu-img, as powers of 1024.
const units = "bkmgtpe"

var errSize = errors.New("want a number of bytes, or one with a suffix: K, M, G, T, P, E")

// ParseSize reads a size as qemu-img does: 1024, 64K, 1.5G.
func ParseSize(text string) (int64, error) {
	number, unit := text, 0
	if n := len(text); n > 0 {
		if i := strings.IndexByte(units, text[n-1]|0x20); i >= 0 && !isDigit(text[n-1]) {
			number, unit = text[:n-1], i
		}
	}
	if number == "" || strings.TrimLeft(number, "0123456789.") != "" {
		return 0, errSize
	}
	scale := float64(int64(1) << (10 * unit))
	if n, err := strconv.ParseInt(number, 10, 64); err == nil {
		if n > math.MaxInt64>>(10*unit) {
			return 0, fmt.Errorf("%s: too large", text)
		}
		return n << (10 * unit), nil
	}
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || unit == 0 || v*scale >= math.MaxInt64 {
		return 0, errSize
	}
	return int64(v * scale), nil
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func parseSwitch(value string) (bool, error) {
	switch value {
	case "on", "yes", "true":
		return true, nil
	case "off", "no", "false":
		return false, nil
	}
	return false, errors.New("want on or off")
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// backingText is the end of what qemu-img create writes, if there is a backing file.
func backingText(n New) string {
	if n.Backing == "" {
		return ""
	}
	return fmt.Sprintf(" backing_file=%s backing_fmt=%s", n.Backing, n.BackingFormat)
}
