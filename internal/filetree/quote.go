package filetree

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Quote writes a name so that it stays on one line and cannot trick a terminal, and that no
// two names look the same: what is not printable is escaped as in C and Go, and so is a
// backslash. A byte that is no UTF-8 is \xNN.
func Quote(name string) string {
	if !strings.ContainsFunc(name, func(c rune) bool { return c == '\\' || c == utf8.RuneError || !unicode.IsPrint(c) }) {
		return name
	}
	var b strings.Builder
	for len(name) > 0 {
		c, n := utf8.DecodeRuneInString(name)
		switch {
		case c == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, name[0])
		case c == '\\':
			b.WriteString(`\\`)
		case unicode.IsPrint(c):
			b.WriteString(name[:n])
		default:
			q := strconv.QuoteRuneToASCII(c)
			b.WriteString(q[1 : len(q)-1])
		}
		name = name[n:]
	}
	return b.String()
}
