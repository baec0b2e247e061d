package host

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// A Mark is what the description of a snapshot of ours says, which is all that libvirt keeps
// of it whatever happens to the snapshot:
//
//	Taken by virt-rotate (policy web; quiesced; without vdb: shareable-disk); pinned; expires 2026-12-28T10:00:00Z; note "before the upgrade"
//
// Only snapshots with a mark are ever dropped. Versions that know nothing of pins, expiry and
// notes take a snapshot that has one for somebody else's, and keep it.
type Mark struct {
	Policy   string
	Quiesced bool      // the guest froze its file systems; false also where older versions did not say
	LeftOut  []string  // disks that the snapshot was taken without, each with the reason: "vdb: shareable-disk"; see LeftOutParts
	Pinned   bool      // it stays until a person takes that back
	Expires  time.Time // it stays until then, and goes; the zero Time: retention decides
	Firmware string    // the file with UEFI variables and TPM state of that moment; "" for none
	Note     string    // of the person who took it
}

// Parts of a mark. Up to the parenthesis it is as the first versions wrote it, which knew
// their snapshots by how the description begins and ends.
const (
	markPrefix = "Taken by virt-rotate (policy "
	quiesced   = "; quiesced"
	without    = "; without "
	markSuffix = ")"

	pinned  = "; pinned"
	expires = "; expires "
	fwPart  = "; firmware "
	noted   = `; note "`
)

// Bounds of what a description says.
const (
	mostLeftOut = 16  // disks
	longestPart = 64  // bytes of each
	longestNote = 256 // characters
)

// String is the description.
func (m Mark) String() string {
	var s strings.Builder
	s.WriteString(markPrefix + m.Policy)
	if m.Quiesced {
		s.WriteString(quiesced)
	}
	if len(m.LeftOut) > 0 {
		s.WriteString(without + strings.Join(m.LeftOut, ", "))
	}
	s.WriteString(markSuffix)
	if m.Pinned {
		s.WriteString(pinned)
	}
	if !m.Expires.IsZero() {
		s.WriteString(expires + m.Expires.UTC().Format(time.RFC3339))
	}
	if m.Firmware != "" {
		s.WriteString(fwPart + strconv.QuoteToGraphic(m.Firmware))
	}
	if m.Note != "" {
		s.WriteString(noted + m.Note + `"`)
	}
	return s.String()
}

// LeftOutParts is what a mark can say of disks that are left out: not more than anybody would read.
func LeftOutParts(leftOut []string) (parts []string) {
	for i, text := range leftOut {
		if i == mostLeftOut {
			return append(parts, fmt.Sprintf("and %d more", len(leftOut)-i))
		}
		parts = append(parts, strings.Map(plain, text[:min(len(text), longestPart)]))
	}
	return parts
}

// plain lets nothing through but what targets and codes are made of: targets are a guest's.
func plain(r rune) rune {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("-_.: ", r):
		return r
	}
	return '?'
}

// ParseMark reads a description. Anybody may have written one: what String does not write is
// no mark.
func ParseMark(description string) (m Mark, ok bool) {
	text, ok := strings.CutPrefix(description, markPrefix)
	text, rest, closed := strings.Cut(text, markSuffix)
	if !ok || !closed {
		return Mark{}, false
	}
	text, leftOut, _ := strings.Cut(text, without)
	m.Policy, m.Quiesced = strings.CutSuffix(text, quiesced)
	m.LeftOut = parseLeftOut(leftOut)
	rest, m.Pinned = strings.CutPrefix(rest, pinned)
	if rest, ok = m.parseExpiry(rest); !ok {
		return Mark{}, false
	}
	if rest, ok = m.parseFirmware(rest); !ok {
		return Mark{}, false
	}
	return m, m.parseNote(rest)
}

// parseLeftOut returns nothing of what LeftOutParts does not make.
func parseLeftOut(text string) []string {
	parts := strings.Split(text, ", ")
	if text == "" || len(parts) > mostLeftOut+1 {
		return nil
	}
	for _, part := range parts {
		if len(part) > longestPart || strings.Map(plain, part) != part {
			return nil
		}
	}
	return parts
}

func (m *Mark) parseExpiry(rest string) (after string, ok bool) {
	text, there := strings.CutPrefix(rest, expires)
	if !there {
		return rest, true
	}
	n := min(len(text), len("2006-01-02T15:04:05Z"))
	at, err := time.Parse(time.RFC3339, text[:n])
	m.Expires = at
	return text[n:], err == nil
}

func (m *Mark) parseFirmware(rest string) (after string, ok bool) {
	text, there := strings.CutPrefix(rest, fwPart)
	if !there {
		return rest, true
	}
	quoted, err := strconv.QuotedPrefix(text)
	if err != nil {
		return "", false
	}
	m.Firmware, err = strconv.Unquote(quoted)
	return text[len(quoted):], err == nil && m.Firmware != ""
}

func (m *Mark) parseNote(rest string) (ok bool) {
	if rest == "" {
		return true
	}
	text, there := strings.CutPrefix(rest, noted)
	m.Note, ok = strings.CutSuffix(text, `"`)
	return there && ok && m.Note != "" && NoteFault(m.Note) == ""
}

// NoteFault tells why a note cannot be kept, or "": libvirt's XML has no control characters.
func NoteFault(note string) string {
	switch {
	case !utf8.ValidString(note):
		return "it is not UTF-8"
	case strings.ContainsFunc(note, func(r rune) bool { return !unicode.IsPrint(r) }):
		return "it must be one line of printable characters"
	case utf8.RuneCountInString(note) > longestNote:
		return fmt.Sprintf("it has more than %d characters", longestNote)
	case strings.TrimSpace(note) != note:
		return "it begins or ends with a space"
	}
	return ""
}

// Mark is what the snapshot's description says; ok is false where the snapshot is not ours.
func (s *Snapshot) Mark() (m Mark, ok bool) { return ParseMark(s.Description) }

// Ours tells whether virt-rotate took the snapshot.
func (s *Snapshot) Ours() bool {
	_, ok := s.Mark()
	return ok
}

// Quiesced tells whether the description says that the guest froze its file systems for the
// snapshot. Without it that is not known: older versions did not say.
func (s *Snapshot) Quiesced() bool {
	m, _ := s.Mark()
	return m.Quiesced
}

// LeftOut is what the description says of disks that the snapshot was taken without, or "".
func (s *Snapshot) LeftOut() string {
	m, _ := s.Mark()
	return strings.Join(m.LeftOut, ", ")
}
