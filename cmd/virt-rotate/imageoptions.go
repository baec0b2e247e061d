package main

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// units are the suffixes of qemu-img, as powers of 1024.
const units = "bkmgtpe"

var errSize = errors.New("want a number of bytes, or one with a suffix: K, M, G, T, P, E")

// parseSize reads a size as qemu-img does: 1024, 64K, 1.5G.
func parseSize(text string) (int64, error) {
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

// An option is one key=value of -o.
type option struct{ key, value string }

// parseOptions takes -o apart, which may be repeated: "a=b,c=d", where ",,"
// stands for a comma within a value. Keys that are not in known are errors.
func parseOptions(texts, known []string, format string) ([]option, error) {
	var out []option
	for _, text := range texts {
		for _, part := range splitOptions(text) {
			key, value, ok := strings.Cut(part, "=")
			key = strings.ReplaceAll(key, "-", "_")
			if !slices.Contains(known, key) {
				return nil, usagef("-o %s: %s images have no such option; they have: %s", key, format, strings.Join(known, ", "))
			}
			if !ok {
				return nil, usagef("-o %s: want %s=VALUE", key, key)
			}
			out = append(out, option{key, value})
		}
	}
	return out, nil
}

func splitOptions(text string) []string {
	var parts []string
	var part strings.Builder
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] != ',':
			part.WriteByte(text[i])
		case i+1 < len(text) && text[i+1] == ',':
			part.WriteByte(',')
			i++
		default:
			parts = append(parts, part.String())
			part.Reset()
		}
	}
	return append(parts, part.String())
}

func parseSwitch(value string) (bool, error) {
	switch value {
	case "on", "yes", "true":
		return true, nil
	case "off", "no", "false":
		return false, nil
	}
	return false, errors.New("want on or off")
}
