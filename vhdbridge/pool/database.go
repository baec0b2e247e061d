package pool

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// readDatabase reads xapi's database as XML (ocaml/database/db_xml.ml of xen-api): tables of
// rows, whose values are attributes with white space written by % (xml_spaces.ml), and whose
// names have two underscores for one.
func readDatabase(r io.Reader) (source []*record, err error) {
	d := xml.NewDecoder(r)
	table := ""
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return source, nil
		}
		if err != nil {
			return nil, fmt.Errorf("byte %d: %w", d.InputOffset(), err)
		}
		start, ok := token.(xml.StartElement)
		switch {
		case !ok:
		case start.Name.Local == "table":
			table = attribute(start, "name")
		case start.Name.Local == "row" && slices.Contains(classes(), table):
			source = append(source, row(table, start))
		}
	}
}

func attribute(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

func row(table string, e xml.StartElement) *record {
	r := newRecord(table, attribute(e, "ref"))
	for _, a := range e.Attr {
		name, value := strings.ReplaceAll(a.Name.Local, "__", "_"), unprotect(a.Value)
		if m, ok := readMap(value); ok {
			r.maps[name] = m
		} else {
			r.fields[name] = value
		}
	}
	return r
}

// unprotect undoes xapi's way to write white space.
func unprotect(text string) string {
	return strings.NewReplacer("%_", "  ", "%.", " ", "%t", "\t", "%n", "\n", "%r", "\r", "%%", "%").Replace(text)
}

// readMap reads a map as the database writes it (string_marshall_helper.ml):
// (('key' 'value') ('key' 'value')), with a backslash before what would end a text.
func readMap(text string) (map[string]string, bool) {
	rest, ok := strings.CutPrefix(text, "((")
	if !ok {
		return nil, false
	}
	m := map[string]string{}
	for {
		key, after, ok := readText(rest)
		if !ok {
			return nil, false
		}
		value, after, ok := readText(strings.TrimLeft(after, " "))
		if !ok || !strings.HasPrefix(after, ")") {
			return nil, false
		}
		m[key] = value
		rest, ok = strings.CutPrefix(strings.TrimLeft(after[1:], " "), "(")
		if !ok {
			return m, true
		}
	}
}

// readText reads what is between single quotes at the beginning.
func readText(text string) (value, rest string, ok bool) {
	if !strings.HasPrefix(text, "'") {
		return "", text, false
	}
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch {
		case text[i] == '\\' && i+1 < len(text):
			i++
			b.WriteByte(text[i])
		case text[i] == '\'':
			return b.String(), text[i+1:], true
		default:
			b.WriteByte(text[i])
		}
	}
	return "", text, false
}
