package term

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"golang.org/x/term"
)

// Plural is a number and a word, with s unless it is 1.
func Plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// A lineError is told in one line, and cannot trick a terminal: names of files
// come from whoever wrote the image.
type lineError struct{ error }

func (e lineError) Error() string {
	return Printable(strings.ReplaceAll(e.error.Error(), "\n", "; "))
}

func (e lineError) Unwrap() error { return e.error }

// OneLine makes an error one that is told in one line, unless all has been said.
func OneLine(err error) error {
	var exit *ExitError
	if err == nil || errors.As(err, &exit) && exit.Err == nil {
		return err
	}
	return lineError{err}
}

// Printable writes control characters as Go does.
func Printable(s string) string {
	if strings.IndexFunc(s, func(c rune) bool { return !unicode.IsPrint(c) }) < 0 {
		return s
	}
	var b strings.Builder
	for _, c := range s {
		if unicode.IsPrint(c) {
			b.WriteRune(c)
		} else {
			q := fmt.Sprintf("%+q", c)
			b.WriteString(q[1 : len(q)-1])
		}
	}
	return b.String()
}

// SizeText is a size as qemu-img writes it: three digits.
func SizeText(n int64) string {
	const units = "KMGTPE"
	v, unit := float64(n), ""
	for i := 0; v >= 1000 && i < len(units); i++ {
		v, unit = v/1024, units[i:i+1]+"i"
	}
	return fmt.Sprintf("%.3g %sB", v, unit)
}

// Width is the number of columns of the terminal that w leads to; 0 where it is none.
func Width(w io.Writer) int {
	width, _ := Size(w)
	return width
}

// Size is how many columns and lines the terminal has that w leads to; 0 where it is none.
func Size(w io.Writer) (width, height int) {
	f, ok := w.(*os.File)
	if !ok {
		return 0, 0
	}
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0, 0
	}
	return width, height
}
