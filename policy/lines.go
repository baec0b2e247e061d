package policy

import (
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// lineIndex tells on which line a key stands, which the TOML library does
// not. A key is in named where it is written out, and in implied where it is
// only a part of a longer one: [policy.web] names policy.web, implies policy.
type lineIndex struct {
	named, implied map[string]int // by toml.Key.String()
	repeated       []keyLine      // keys with a value that were named before
}

type keyLine struct {
	key  toml.Key
	line int
}

func (x *lineIndex) has(key toml.Key) bool {
	return x.named[key.String()] > 0 || x.implied[key.String()] > 0
}

// line is the line of key, or else of the closest table above it; 0 = none.
func (x *lineIndex) line(key toml.Key) int {
	for ; len(key) > 0; key = key[:len(key)-1] {
		if line := x.named[key.String()]; line > 0 {
			return line
		}
		if line := x.implied[key.String()]; line > 0 {
			return line
		}
	}
	return 0
}

// record keeps the first line of each key.
func (x *lineIndex) record(key toml.Key, line int) {
	for n := range key {
		lines, name := x.implied, key[:n+1].String()
		if n == len(key)-1 {
			lines = x.named
		}
		if lines[name] == 0 {
			lines[name] = line
		}
	}
}

// recordValue notes keys that have a value already.
func (x *lineIndex) recordValue(key toml.Key, line int) {
	if x.named[key.String()] > 0 {
		x.repeated = append(x.repeated, keyLine{key, line})
	}
	x.record(key, line)
}

// indexLines finds the keys of src, which must be valid TOML: the scanner
// checks nothing. Keys inside of arrays are left out, since they have no name
// of their own; they are on the line of the array.
func indexLines(src string) lineIndex {
	for _, mark := range []string{"\xef\xbb\xbf", "\xff\xfe", "\xfe\xff"} { // as toml.Decode does
		src = strings.TrimPrefix(src, mark)
	}
	s := &scanner{src: src, line: 1, index: lineIndex{named: map[string]int{}, implied: map[string]int{}}}
	var table toml.Key
	s.items(0, func() {
		if s.peek() == '[' {
			table = s.header()
		} else {
			s.pair(table)
		}
	})
	return s.index
}

// scanner walks over TOML text and never beyond its end, even if it is no TOML.
type scanner struct {
	src     string
	pos     int
	line    int // of src[counted]
	counted int
	arrays  int // how many arrays are open around pos, [[…]] included
	index   lineIndex
}

// peek is 0 at the end; valid TOML has no NUL.
func (s *scanner) peek() byte {
	if s.pos >= len(s.src) {
		return 0
	}
	return s.src[s.pos]
}

// lineNow counts newlines from where it stopped last time.
func (s *scanner) lineNow() int {
	s.line += strings.Count(s.src[s.counted:s.pos], "\n")
	s.counted = s.pos
	return s.line
}

// skip moves past any of the bytes of set.
func (s *scanner) skip(set string) {
	for s.peek() != 0 && strings.IndexByte(set, s.peek()) >= 0 {
		s.pos++
	}
}

// until moves to the next byte of set, or to the end.
func (s *scanner) until(set string) {
	if n := strings.IndexAny(s.src[s.pos:], set); n >= 0 {
		s.pos += n
	} else {
		s.pos = len(s.src)
	}
}

// skipBlank moves past white space, newlines, commas and comments.
func (s *scanner) skipBlank() {
	for s.skip(" \t\r\n,"); s.peek() == '#'; s.skip(" \t\r\n,") {
		s.until("\n")
	}
}

// header reads [table] or [[array of tables]].
func (s *scanner) header() toml.Key {
	line := s.lineNow()
	s.arrays = 0
	if strings.HasPrefix(s.src[s.pos:], "[[") {
		s.arrays = 1
	}
	s.skip("[")
	key := s.key()
	s.index.record(key, line)
	s.skip(" \t")
	s.skip("]")
	return key
}

// pair reads "key = value" within table at.
func (s *scanner) pair(at toml.Key) {
	line := s.lineNow()
	key := below(at, s.key()...)
	if s.arrays == 0 {
		s.index.recordValue(key, line)
	}
	s.skip(" \t=")
	s.value(key)
}

// key reads a dotted key with bare and quoted parts.
func (s *scanner) key() toml.Key {
	var key toml.Key
	for {
		s.skip(" \t")
		key = append(key, s.part())
		s.skip(" \t")
		if s.peek() != '.' {
			return key
		}
		s.pos++
	}
}

func (s *scanner) part() string {
	start := s.pos
	switch s.peek() {
	case '"':
		s.quoted()
		part, _ := strconv.Unquote(s.src[start:s.pos]) // TOML's escapes are Go's
		return part
	case '\'':
		s.quoted()
		return strings.TrimSuffix(s.src[start+1:s.pos], "'")
	}
	s.until(" \t\r\n.=]")
	return s.src[start:s.pos]
}

// value moves past a value and indexes the keys of inline tables.
func (s *scanner) value(key toml.Key) {
	switch s.peek() {
	case '"', '\'':
		s.quoted()
	case '[':
		s.arrays++
		s.pos++
		s.items(']', func() { s.value(key) })
		s.arrays--
	case '{':
		s.pos++
		s.items('}', func() { s.pair(key) })
	default:
		s.until(",]}#\n") // a date may have a space inside
	}
}

// items calls item for each element up to and including the closing bracket;
// 0 stands for the end of src.
func (s *scanner) items(closing byte, item func()) {
	for s.skipBlank(); s.peek() != closing && s.peek() != 0; s.skipBlank() {
		before := s.pos
		item()
		if s.pos == before { // not TOML; do not stay here
			s.pos++
		}
	}
	s.pos = min(s.pos+1, len(s.src))
}

// quoted moves past a string of any of the four kinds.
func (s *scanner) quoted() {
	mark := s.src[s.pos : s.pos+1]
	escapes := mark == `"`
	if triple := strings.Repeat(mark, 3); strings.HasPrefix(s.src[s.pos:], triple) {
		mark = triple
	}
	for s.pos += len(mark); s.peek() != 0 && !strings.HasPrefix(s.src[s.pos:], mark); s.pos++ {
		if escapes && s.peek() == '\\' {
			s.pos++
		}
	}
	s.pos = min(s.pos+len(mark), len(s.src))
	s.closingQuotes(mark)
}

// closingQuotes: up to two quotes before the closing three are content.
func (s *scanner) closingQuotes(mark string) {
	for n := 0; n < 2 && len(mark) == 3 && s.peek() == mark[0]; n++ {
		s.pos++
	}
}
