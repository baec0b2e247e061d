// Command archdoc writes what docs/ tells of the packages, from the packages themselves: the
// table in docs/design.md, between its marks, and docs/architecture.dot with the picture that
// graphviz makes of it. With -check it changes nothing, and fails where they are stale.
//
//	go run ./internal/archdoc          # make docs
//	go run ./internal/archdoc -check   # a part of make test
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

const (
	module = "github.com/virt-rotate/virt-rotate"
	design = "docs/design.md"
	dotted = "docs/architecture.dot"
	drawn  = "docs/architecture.svg"

	tableBegin = "<!-- packages: make docs -->\n"
	tableEnd   = "<!-- end of packages -->\n"
)

// A unit is one package of the module. Names are without that of the module.
type unit struct {
	name, sentence string
	imports        []string
}

func main() {
	check := flag.Bool("check", false, "change nothing; fail where the documents are stale")
	flag.Parse()
	if err := run(*check); err != nil {
		fmt.Fprintln(os.Stderr, "archdoc:", err)
		os.Exit(1)
	}
}

func run(check bool) error {
	units, err := list()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(design)
	if err != nil {
		return err
	}
	wanted, err := between(string(text), table(units))
	if err != nil {
		return err
	}
	dot := graph(units)
	if check {
		return errors.Join(same(design, wanted), same(dotted, dot), drawnFrom(dot))
	}
	if err := os.WriteFile(design, []byte(wanted), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(dotted, []byte(dot), 0o644); err != nil {
		return err
	}
	return draw(dot)
}

// list asks the go command for the packages that are built, without tests.
func list() ([]unit, error) {
	cmd := exec.Command("go", "list", "-tags", "libvirt_dlopen", "-json=ImportPath,Doc,Imports,GoFiles,CgoFiles", "./...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var units []unit
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath, Doc string
			Imports         []string

			GoFiles, CgoFiles []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return units, nil
		} else if err != nil {
			return nil, err
		}
		if len(p.GoFiles)+len(p.CgoFiles) == 0 {
			continue // tests only
		}
		u := unit{name: short(p.ImportPath), sentence: sentence(p.Doc)}
		for _, i := range p.Imports {
			if strings.HasPrefix(i, module+"/") {
				u.imports = append(u.imports, short(i))
			}
		}
		if u.sentence == "" {
			return nil, fmt.Errorf("%s has no package comment", p.ImportPath)
		}
		units = append(units, u)
	}
}

func short(path string) string { return strings.TrimPrefix(path, module+"/") }

// sentence is what a package comment says first, without the name of the package.
func sentence(doc string) string {
	doc, _, _ = strings.Cut(doc, ".\n")
	doc, _, _ = strings.Cut(strings.ReplaceAll(doc, "\n", " "), ". ")
	words := strings.Fields(strings.TrimRight(doc, ".:"))
	if len(words) > 2 && (words[0] == "Package" || words[0] == "Command") {
		words = words[2:]
	}
	return strings.Join(words, " ")
}

// helps tells whether a package is there for tests, documents or measurements only.
func (u *unit) helps() bool {
	for _, part := range []string{"integration", "test", "archdoc", "publicapi", "tidy"} {
		if strings.Contains(u.name, part) {
			return true
		}
	}
	return false
}

// table is the list of packages, in Markdown.
func table(units []unit) string {
	var b strings.Builder
	b.WriteString("| package | what it does | imports of ours |\n|---|---|---|\n")
	for _, u := range units {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", u.name, strings.ReplaceAll(u.sentence, "|", `\|`), strings.Join(u.imports, ", "))
	}
	return b.String()
}

// between puts the table into the text, between its marks.
func between(text, table string) (string, error) {
	before, rest, ok := strings.Cut(text, tableBegin)
	_, after, ends := strings.Cut(rest, tableEnd)
	if !ok || !ends {
		return "", fmt.Errorf("%s has no marks for the table of packages", design)
	}
	return before + tableBegin + table + tableEnd + after, nil
}

// graph is the picture of the imports in the language of graphviz. What follows from
// other arrows has none.
func graph(units []unit) string {
	imports := map[string][]string{}
	for _, u := range units {
		if !u.helps() {
			imports[u.name] = u.imports
		}
	}
	var b strings.Builder
	b.WriteString("// made by make docs; an arrow that follows from others is left out\n")
	b.WriteString("digraph architecture {\n\trankdir=TB; bgcolor=\"transparent\";\n")
	b.WriteString("\tnode [shape=box, style=\"rounded,filled\", fillcolor=\"#f4f6f8\", color=\"#5b6b7a\", fontname=\"sans-serif\", fontsize=12];\n\tedge [color=\"#5b6b7a\", arrowsize=0.7];\n")
	for _, u := range units {
		if u.helps() {
			continue
		}
		fmt.Fprintf(&b, "\t%q;\n", u.name)
		for _, to := range u.imports {
			if !slices.ContainsFunc(u.imports, func(via string) bool { return via != to && reaches(imports, via, to) }) {
				fmt.Fprintf(&b, "\t%q -> %q;\n", u.name, to)
			}
		}
	}
	b.WriteString("}\n")
	return b.String()
}

// reaches tells whether one package imports another, directly or by others.
func reaches(imports map[string][]string, from, to string) bool {
	return slices.ContainsFunc(imports[from], func(next string) bool { return next == to || reaches(imports, next, to) })
}

// mark is the comment by which the picture names what it was drawn from.
func mark(dot string) string {
	return fmt.Sprintf("<!-- drawn from %x -->\n", sha256.Sum256([]byte(dot)))
}

// draw has graphviz make the picture.
func draw(dot string) error {
	cmd := exec.Command("dot", "-Tsvg")
	cmd.Stdin, cmd.Stderr = strings.NewReader(dot), os.Stderr
	svg, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return errors.New("dot is missing: install graphviz")
	}
	if err != nil {
		return fmt.Errorf("dot: %w", err)
	}
	return os.WriteFile(drawn, append(svg, mark(dot)...), 0o644)
}

// same fails where a file is not as it would be written.
func same(path, want string) error {
	have, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if string(have) != want {
		return fmt.Errorf("%s is stale: run make docs", path)
	}
	return nil
}

// drawnFrom fails where the picture was made from another graph.
func drawnFrom(dot string) error {
	svg, err := os.ReadFile(drawn)
	if err != nil {
		return err
	}
	if !strings.HasSuffix(string(svg), mark(dot)) {
		return fmt.Errorf("%s is stale: run make docs", drawn)
	}
	return nil
}
