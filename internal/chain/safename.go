package chain

import "strings"

// MaxSafeName bounds what of a snapshot's name gets into the name of a file, in bytes:
// with the name of the image and a number it has to be a name that file systems take.
const MaxSafeName = 80

// SafeName is what of a snapshot's name can be in the name of a file: letters, digits and
// what is harmless between them. Whoever wrote the image has chosen the name.
func SafeName(name string) string {
	safe := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("._+-", r):
			return r
		}
		return '_'
	}, name)
	safe = strings.TrimLeft(safe[:min(len(safe), MaxSafeName)], ".-")
	if safe == "" {
		return "snapshot"
	}
	return safe
}
