package policy

import (
	"path"
	"slices"
	"strings"
)

// A glob is one of path.Match, which has [^…] where shells have [!…], and no ] as the
// first of a class. Both spellings of shells mean here what they mean there.

// matchAny ignores the error of match: Parse has refused bad globs.
func matchAny(globs []string, name string) bool {
	return slices.ContainsFunc(globs, func(glob string) bool {
		ok, _ := match(glob, name)
		return ok
	})
}

// Matching lists the names that fit the glob, in their order; none for what is no glob.
// It is the glob of the keys domains and disks: * ? [a-z] [!a-z], and \\ before what is
// to stand for itself.
func Matching(glob string, names []string) []string {
	var fit []string
	for _, name := range names {
		if ok, err := match(glob, name); ok && err == nil {
			fit = append(fit, name)
		}
	}
	return fit
}

// match tells whether the whole name matches the glob. The error is path.ErrBadPattern.
func match(glob, name string) (bool, error) { return path.Match(inGo(glob), name) }

// inGo writes a glob as path.Match wants it.
func inGo(glob string) string {
	var b strings.Builder
	for i := 0; i < len(glob); i++ {
		switch glob[i] {
		case '\\':
			i += copyEscape(&b, glob[i:])
		case '[':
			i += copyClass(&b, glob[i:])
		default:
			b.WriteByte(glob[i])
		}
	}
	return b.String()
}

// copyEscape copies a backslash and what follows it; it returns how far it went beyond
// the first byte, as copyClass does.
func copyEscape(b *strings.Builder, s string) int {
	n := min(2, len(s))
	b.WriteString(s[:n])
	return n - 1
}

// copyClass copies s, which begins with a class, up to the end of that.
func copyClass(b *strings.Builder, s string) int {
	b.WriteByte('[')
	i := 1
	if i < len(s) && (s[i] == '!' || s[i] == '^') {
		b.WriteByte('^')
		i++
	}
	if i < len(s) && s[i] == ']' {
		b.WriteString(`\]`)
		i++
	}
	for ; i < len(s) && s[i] != ']'; i++ {
		if s[i] == '\\' {
			i += copyEscape(b, s[i:])
		} else {
			b.WriteByte(s[i])
		}
	}
	if i < len(s) {
		b.WriteByte(']')
	}
	return i
}

// literal is the glob that matches nothing but the name.
func literal(name string) string {
	return strings.NewReplacer(`*`, `\*`, `?`, `\?`, `[`, `\[`, `\`, `\\`).Replace(name)
}
