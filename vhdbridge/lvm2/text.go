package lvm2

import (
	"fmt"
	"strconv"
	"strings"
)

// mostDepth bounds how deep sections may be in each other.
const mostDepth = 16

// A section is what stands between braces: values and sections by name, in the order of the
// text. A value is an int64, a string or a list of such ([]any).
type section struct {
	names    []string // of sections
	sections map[string]*section
	values   map[string]any
}

func (s *section) text(key string) string { v, _ := s.values[key].(string); return v }

func (s *section) number(key string) (int64, error) {
	n, ok := s.values[key].(int64)
	if !ok {
		return 0, fmt.Errorf("%s is no number, or is not there", key)
	}
	return n, nil
}

func (s *section) list(key string) []any { v, _ := s.values[key].([]any); return v }

// words are the strings of a list.
func (s *section) words(key string) []string {
	var words []string
	for _, v := range s.list(key) {
		if w, ok := v.(string); ok {
			words = append(words, w)
		}
	}
	return words
}

// child is the section of that name, or an empty one.
func (s *section) child(name string) *section {
	if c := s.sections[name]; c != nil {
		return c
	}
	return newSection()
}

func newSection() *section {
	return &section{sections: map[string]*section{}, values: map[string]any{}}
}

// parseText reads LVM2's text metadata: sections in braces, key = value, lists in brackets,
// comments from # to the end of a line.
func parseText(text string) (*section, error) {
	p := &parser{text: text}
	top := newSection()
	if err := p.section(top, 0); err != nil {
		return nil, fmt.Errorf("line %d of the metadata: %w", 1+strings.Count(text[:min(p.at, len(text))], "\n"), err)
	}
	return top, nil
}

type parser struct {
	text string
	at   int
}

// section reads entries up to the closing brace, at depth 0 up to the end.
func (p *parser) section(s *section, depth int) error {
	if depth > mostDepth {
		return fmt.Errorf("sections are more than %d deep in each other", mostDepth)
	}
	for {
		p.blanks()
		switch {
		case p.at == len(p.text) && depth == 0:
			return nil
		case p.at == len(p.text):
			return fmt.Errorf("it ends within a section")
		case p.is('}') && depth > 0:
			return nil
		}
		if err := p.entry(s, depth); err != nil {
			return err
		}
	}
}

func (p *parser) entry(s *section, depth int) error {
	name := p.word()
	if name == "" {
		return fmt.Errorf("a name is wanted, not %q", p.rest())
	}
	p.blanks()
	switch {
	case p.is('{'):
		if s.sections[name] != nil {
			return fmt.Errorf("two sections are called %s", name)
		}
		c := newSection()
		s.sections[name], s.names = c, append(s.names, name)
		return p.section(c, depth+1)
	case p.is('='):
		v, err := p.value(true)
		s.values[name] = v
		return err
	}
	return fmt.Errorf("after %s comes neither = nor {, but %q", name, p.rest())
}

func (p *parser) value(list bool) (any, error) {
	p.blanks()
	switch {
	case p.at < len(p.text) && p.text[p.at] == '"':
		return p.quoted()
	case list && p.is('['):
		return p.listed()
	}
	word := p.word()
	n, err := strconv.ParseInt(word, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("a value is wanted, not %q", word+p.rest())
	}
	return n, nil
}

func (p *parser) listed() (list []any, err error) {
	for {
		p.blanks()
		if p.is(']') {
			return list, nil
		}
		v, err := p.value(false)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
		p.blanks()
		p.is(',')
	}
}

// quoted reads a string; \" and \\ stand for themselves.
func (p *parser) quoted() (string, error) {
	var b strings.Builder
	for p.at++; p.at < len(p.text); p.at++ {
		switch c := p.text[p.at]; {
		case c == '"':
			p.at++
			return b.String(), nil
		case c == '\\' && p.at+1 < len(p.text):
			p.at++
			b.WriteByte(p.text[p.at])
		default:
			b.WriteByte(c)
		}
	}
	return "", fmt.Errorf("a string has no end")
}

// word is what stands up to a blank or a sign.
func (p *parser) word() string {
	n := strings.IndexAny(p.text[p.at:], " \t\r\n={}[],\"#")
	if n < 0 {
		n = len(p.text) - p.at
	}
	w := p.text[p.at : p.at+n]
	p.at += n
	return w
}

// blanks leaves out white space and comments.
func (p *parser) blanks() {
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case ' ', '\t', '\r', '\n':
			p.at++
		case '#':
			n := strings.IndexByte(p.text[p.at:], '\n')
			if n < 0 {
				n = len(p.text) - p.at
			}
			p.at += n
		default:
			return
		}
	}
}

// is takes the sign if it is next.
func (p *parser) is(sign byte) bool {
	if p.at < len(p.text) && p.text[p.at] == sign {
		p.at++
		return true
	}
	return false
}

// rest is the beginning of what comes next, for errors.
func (p *parser) rest() string { return p.text[p.at:min(p.at+20, len(p.text))] }
