// Package manpage reads what a manual page of man/ documents, so that tests can hold the pages
// against the program. It knows as much of mdoc(7) as these pages use: an entry of a list counts
// where its .It line names it, never a word in a sentence.
package manpage

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A Page is one manual page.
type Page struct {
	Name     string // as in .Dt, such as "virt-rotate-run.1"
	Synopses []Synopsis
	Items    []Item
	Examples []string  // the literal displays
	Refs     []string  // pages that it refers to, such as "virsh.1"
	known    [2]string // section and subsection that are being read
	open     bool      // whether lines are text of the newest item
	literal  *[]string // lines of the display that is being read
}

// A Synopsis tells how a command is called.
type Synopsis struct {
	Command string // such as "image check", "" for the program
	Flags   []string
}

// An Item is an entry of a list.
type Item struct {
	Section, Subsection string
	Flags               []string // with their dashes
	Value               bool     // whether the flags have one
	Words               []string // the words of the line, without macros
	Macro               string   // the first macro: Fl, Va, Cm …
	Text                string   // what follows up to the next macro
}

// Read reads all pages of the directory man/ of the checkout at top.
func Read(top string) ([]*Page, error) {
	paths, err := filepath.Glob(filepath.Join(top, "man", "*.[1-8]"))
	if err == nil && len(paths) == 0 {
		err = fmt.Errorf("%s: no manual pages", top)
	}
	var pages []*Page
	for _, path := range paths {
		data, readErr := os.ReadFile(path)
		if readErr != nil {
			return nil, readErr
		}
		p := Parse(string(data))
		if p.Name != filepath.Base(path) {
			return nil, fmt.Errorf("%s: .Dt says it is %s", path, p.Name)
		}
		pages = append(pages, p)
	}
	return pages, err
}

// Parse reads one page.
func Parse(text string) *Page {
	p := &Page{}
	for line := range strings.Lines(text) {
		p.line(strings.TrimSuffix(line, "\n"))
	}
	return p
}

// Section is the items below a heading, and below a subheading of it.
func (p *Page) Section(section, subsection string) []Item {
	return slices.DeleteFunc(slices.Clone(p.Items), func(i Item) bool {
		return i.Section != section || i.Subsection != subsection
	})
}

func (p *Page) line(line string) {
	macro, rest, _ := strings.Cut(line, " ")
	switch {
	case macro == ".Ed":
		p.endDisplay()
	case p.literal != nil:
		*p.literal = append(*p.literal, characters.Replace(line))
	case strings.HasPrefix(macro, "."):
		p.open = macro == ".It"
		p.macro(macro[1:], rest)
	case p.open:
		i := &p.Items[len(p.Items)-1]
		i.Text = strings.TrimSpace(i.Text + " " + characters.Replace(line))
	}
}

func (p *Page) endDisplay() {
	if p.literal != nil {
		p.Examples = append(p.Examples, strings.Join(*p.literal, "\n")+"\n")
	}
	p.literal = nil
}

func (p *Page) macro(macro, rest string) {
	words := strings.Fields(rest)
	switch macro {
	case "Dt":
		p.Name = strings.ToLower(words[0]) + "." + words[1]
	case "Sh":
		p.known = [2]string{rest, ""}
	case "Ss":
		p.known[1] = rest
	case "It":
		p.Items = append(p.Items, item(p.known, words))
	case "Xr":
		p.Refs = append(p.Refs, words[0]+"."+words[1])
	case "Bd":
		if words[0] == "-literal" {
			p.literal = &[]string{}
		}
	default:
		if p.known[0] == "SYNOPSIS" {
			p.synopsis(macro, rest)
		}
	}
}

// synopsis reads a line of that section: .Nm begins a command, the first .Cm names it.
func (p *Page) synopsis(macro, rest string) {
	if macro == "Nm" {
		p.Synopses = append(p.Synopses, Synopsis{})
		return
	}
	if len(p.Synopses) == 0 {
		return
	}
	s := &p.Synopses[len(p.Synopses)-1]
	if macro == "Cm" && s.Command == "" {
		s.Command = rest
	}
	i := item(p.known, append([]string{macro}, strings.Fields(rest)...))
	s.Flags = append(s.Flags, i.Flags...)
}

// characters are written in a way of their own in pages, so that they can be copied from them.
var characters = strings.NewReplacer(`\e`, `\`, `\(aq`, "'", `\(dq`, `"`, `\(ti`, "~")

// macros are those that the lines of these pages have.
var macros = []string{"Ar", "Cm", "Dv", "Ev", "Fl", "Li", "No", "Ns", "Oc", "Oo", "Op", "Pa", "Sy", "Va"}

// item reads the words of an .It line, and finds the flags: whatever follows Fl up to the next macro.
func item(at [2]string, words []string) Item {
	i := Item{Section: at[0], Subsection: at[1]}
	macro := ""
	for _, word := range words {
		switch {
		case slices.Contains(macros, word):
			macro = word
			if i.Macro == "" {
				i.Macro = word
			}
			i.Value = i.Value || word == "Ar"
		case macro == "Fl" && word != "," && word != "|":
			i.Flags = append(i.Flags, "-"+word)
			i.Words = append(i.Words, "-"+word)
		default:
			i.Words = append(i.Words, characters.Replace(word))
		}
	}
	return i
}
