package vhd

import (
	"encoding/binary"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// readParent returns the name of the parent as a path of this host: relative to
// the directory of the image, or absolute. It is not trustworthy: whoever wrote
// the image chose it.
//
// The relative locators (MacX, W2ru, and W2ku of XenServer) have to agree. An
// absolute Windows path leads nowhere here and is passed over; without any other
// locator the header's own name of the parent counts, in the image's directory.
func (h *header) readParent(r io.ReaderAt, size, at int64) (string, error) {
	name := ""
	for i, l := range h.locators {
		if l.code != codeMacX && l.code != codeW2ku && l.code != codeW2ru {
			continue
		}
		field := at + offLocators + int64(i)*locatorLen
		next, err := l.read(r, size, field)
		if err != nil {
			return "", err
		}
		if next == "" {
			continue
		}
		if name != "" && name != next {
			return "", malformed(field, "parent locator", fmt.Sprintf("it names the parent %q, another one %q: say which with image rebase -u", next, name))
		}
		name = next
	}
	if name != "" {
		return name, nil
	}
	return h.nameOnly(at)
}

// nameOnly is the last part of the header's own name.
func (h *header) nameOnly(at int64) (string, error) {
	name := h.parentName[strings.LastIndexAny(h.parentName, `/\`)+1:]
	if name == "" || name == "." || name == ".." {
		return "", malformed(at+offParentName, "parent name", "a differencing disk that names no parent")
	}
	return plain(name), nil
}

// plain lets no name be taken for a protocol.
func plain(name string) string {
	name = filepath.Clean(name)
	if i := strings.IndexByte(name, ':'); i >= 0 && !strings.Contains(name[:i], "/") {
		return "./" + name
	}
	return name
}

// read returns the name that a locator leads to, or "" for one that means
// nothing on this host.
func (l locator) read(r io.ReaderAt, size, field int64) (string, error) {
	if l.length == 0 {
		return "", malformed(field+offLocatorLength, "parent locator", "it has no length")
	}
	if l.length > maxLocatorBytes || l.offset < footerLen || l.offset > size-int64(l.length) {
		return "", malformed(field+offLocatorData, "parent locator", "the name is not within the file")
	}
	b := make([]byte, l.length)
	if err := readFull(r, b, l.offset, "parent locator"); err != nil {
		return "", err
	}
	text, reason := l.decode(b)
	if reason == "" && l.code == codeMacX {
		text, reason = fromURL(text)
	} else if reason == "" {
		text, reason = fromWindows(text, l.code == codeW2ku)
	}
	if reason != "" {
		return "", malformed(l.offset, "parent locator", reason)
	}
	return text, nil
}

// decode turns bytes into text. NULs fill it up at most.
func (l locator) decode(b []byte) (text, reason string) {
	if l.code == codeMacX {
		text = strings.TrimRight(string(b), "\x00")
		if !utf8.ValidString(text) {
			return "", "not UTF-8"
		}
	} else {
		if len(b)%2 != 0 {
			return "", "an odd number of bytes is not UTF-16"
		}
		units := make([]uint16, len(b)/2)
		for i := range units {
			units[i] = binary.LittleEndian.Uint16(b[2*i:])
		}
		text = strings.TrimRight(string(utf16.Decode(units)), "\x00")
		if strings.ContainsRune(text, utf8.RuneError) {
			return "", "not UTF-16"
		}
	}
	switch {
	case text == "":
		return "", "an empty name"
	case strings.ContainsRune(text, 0):
		return "", "NUL in a name"
	}
	return text, ""
}

// fromURL takes file URLs of this host, as XenServer writes them: not escaped.
func fromURL(text string) (name, reason string) {
	rest, ok := strings.CutPrefix(text, "file://")
	switch {
	case !ok:
		return "", fmt.Sprintf("%q is not a file URL", text)
	case strings.HasPrefix(rest, "/"), strings.HasPrefix(rest, "./"), strings.HasPrefix(rest, "../"):
		return checkName(plain(rest))
	}
	return "", fmt.Sprintf("%q is on another host", text)
}

// fromWindows takes relative paths. Absolute ones are nothing to go by.
func fromWindows(text string, absolute bool) (name, reason string) {
	path := strings.ReplaceAll(text, `\`, "/")
	drive := len(path) > 1 && path[1] == ':'
	if !strings.HasPrefix(path, "/") && !drive {
		return checkName(plain(path))
	}
	if absolute {
		return "", ""
	}
	return "", fmt.Sprintf("%q is not a relative path", text)
}

func checkName(name string) (string, string) {
	if name == "." || name == ".." || strings.HasSuffix(name, "/..") || name == "/" {
		return "", fmt.Sprintf("%q is no file", name)
	}
	return name, ""
}

// A parentName is one name of the parent as the file holds it.
type parentName struct {
	code  uint32
	bytes []byte
}

// encodeParent returns the three names that XenServer writes, all relative: dir
// is the directory of the image.
func encodeParent(dir, name string) ([]parentName, error) {
	if filepath.IsAbs(name) {
		abs, err := filepath.Abs(dir)
		if err == nil {
			name, err = filepath.Rel(abs, name)
		}
		if err != nil {
			return nil, fmt.Errorf("vhd: a relative name of %q: %w", name, err)
		}
	}
	name = filepath.Clean(name)
	if name == "." || !utf8.ValidString(name) || strings.ContainsAny(name, "\\\x00") || strings.ContainsRune(name, utf8.RuneError) {
		return nil, unsupported(fmt.Sprintf("%q as the name of a parent", name))
	}
	if !strings.HasPrefix(name, "../") {
		name = "./" + name
	}
	windows := utf16LE(strings.ReplaceAll(name, "/", `\`))
	if len(windows) > maxLocatorBytes {
		return nil, unsupported(fmt.Sprintf("a parent's name of %d bytes", len(name)))
	}
	return []parentName{{codeMacX, []byte("file://" + name)}, {codeW2ku, windows}, {codeW2ru, windows}}, nil
}

func utf16LE(text string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(text)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}
