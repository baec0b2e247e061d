package hook

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
)

// maxLine is the longest line, in bytes, that is passed on in one piece.
const maxLine = 1000

// A lineWriter passes on what is written to it, line by line, up to MaxOutput bytes.
type lineWriter struct {
	tell    func(line string)
	line    []byte
	passed  int // bytes
	dropped int
}

// Write never fails.
func (w *lineWriter) Write(b []byte) (int, error) {
	taken := b[:min(len(b), MaxOutput-w.passed)]
	w.passed += len(taken)
	w.dropped += len(b) - len(taken)
	for _, c := range taken {
		if c != '\n' {
			w.line = append(w.line, c)
		}
		if c == '\n' || len(w.line) == maxLine {
			w.flush()
		}
	}
	return len(b), nil
}

func (w *lineWriter) flush() {
	if line := clean(string(bytes.TrimSpace(w.line))); line != "" && w.tell != nil {
		w.tell(line)
	}
	w.line = w.line[:0]
}

// end passes on what has no newline behind it, and tells what was left out.
func (w *lineWriter) end() {
	w.flush()
	if w.dropped > 0 && w.tell != nil {
		w.tell(fmt.Sprintf("(%d more bytes of output are left out)", w.dropped))
	}
}

// clean makes spaces of what would move a cursor, end a line or a string.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}
