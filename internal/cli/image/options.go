package image

import (
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

// An option is one key=value of -o.
type option struct{ key, value string }

// parseOptions takes -o apart, which may be repeated: "a=b,c=d", where ",,"
// stands for a comma within a value, and a key without a value is on. Keys that are not
// in known are errors.
func parseOptions(texts, known []string, format string) ([]option, error) {
	var out []option
	for _, text := range texts {
		for _, part := range splitOptions(text) {
			key, value, ok := strings.Cut(part, "=")
			key = strings.ReplaceAll(key, "-", "_")
			if !slices.Contains(known, key) {
				return nil, term.Usagef("-o %s: %s images have no such option; they have: %s", key, format, strings.Join(known, ", "))
			}
			if !ok { // as qemu-img has it; guides for Azure say force_size
				value = "on"
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
