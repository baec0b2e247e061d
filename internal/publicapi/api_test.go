// Package publicapi_test sees to it that what the packages for others export can be
// used by others: a module outside cannot name a type of an internal package.
package publicapi_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/doc/comment"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/virt-rotate/virt-rotate/"

// forOthers are the packages that are libraries.
func forOthers() []string {
	return []string{module + "qcow2", module + "vhdbridge/vhd", module + "vhdbridge/xva", module + "vhdbridge/lvm2", module + "vhdbridge/xapi", module + "policy"}
}

// load imports packages as the compiler sees them.
func load(t *testing.T, paths []string) []*types.Package {
	t.Helper()
	args := append([]string{"list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}"}, paths...)
	out, err := exec.Command("go", args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	export := map[string]string{}
	for line := range strings.Lines(string(out)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), "\t")
		export[path] = file
	}
	imp := importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(export[path])
	})
	var pkgs []*types.Package
	for _, path := range paths {
		p, err := imp.Import(path)
		if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	return pkgs
}

// A walker goes over everything that the exported names of packages lead to.
type walker struct {
	exported map[*types.TypeName]bool // types that have an exported name in one of the packages
	seen     map[types.Type]bool
	problems []string
}

// exportedTypes lists the types behind the exported names.
func exportedTypes(pkgs []*types.Package) map[*types.TypeName]bool {
	exported := map[*types.TypeName]bool{}
	for _, p := range pkgs {
		for _, name := range p.Scope().Names() {
			n, ok := p.Scope().Lookup(name).(*types.TypeName)
			if !ok || !n.Exported() {
				continue
			}
			if named, ok := types.Unalias(n.Type()).(*types.Named); ok {
				exported[named.Obj()] = true
			}
		}
	}
	return exported
}

func (w *walker) object(where string, o types.Object) {
	if !o.Exported() {
		return
	}
	where += "." + o.Name()
	if n, ok := o.(*types.TypeName); ok {
		w.members(where, types.Unalias(n.Type()))
		return
	}
	w.typ(where, o.Type())
}

// members are what is written behind the dot of a type.
func (w *walker) members(where string, t types.Type) {
	named, ok := t.(*types.Named)
	if !ok {
		w.typ(where, t)
		return
	}
	w.typ(where, named.Underlying())
	methods := types.NewMethodSet(types.NewPointer(named))
	for i := range methods.Len() {
		if m := methods.At(i).Obj(); m.Exported() {
			w.typ(where+"."+m.Name(), m.Type())
		}
	}
}

func (w *walker) typ(where string, t types.Type) {
	t = types.Unalias(t)
	if named, ok := t.(*types.Named); ok {
		w.named(where, named)
		return
	}
	if w.seen[t] {
		return
	}
	w.seen[t] = true
	switch t := t.(type) {
	case *types.Map:
		w.typ(where, t.Key())
		w.typ(where, t.Elem())
	case *types.Signature:
		w.typ(where, t.Params())
		w.typ(where, t.Results())
	case *types.Tuple:
		for v := range t.Variables() {
			w.typ(where, v.Type())
		}
	case *types.Struct:
		for f := range t.Fields() {
			if f.Exported() {
				w.typ(where+"."+f.Name(), f.Type())
			}
		}
	case *types.Interface:
		for m := range t.Methods() {
			w.typ(where+"."+m.Name(), m.Type())
		}
	case interface{ Elem() types.Type }: // pointers, slices, arrays, channels
		w.typ(where, t.Elem())
	}
}

func (w *walker) named(where string, t *types.Named) {
	for a := range t.TypeArgs().Types() {
		w.typ(where, a)
	}
	pkg := t.Obj().Pkg()
	if pkg == nil || !strings.HasPrefix(pkg.Path(), module) || w.exported[t.Obj()] {
		return
	}
	w.problems = append(w.problems, fmt.Sprintf("%s names %s, which has no exported name in any of the packages",
		strings.TrimPrefix(where, module), strings.TrimPrefix(t.String(), module)))
}

// unnameable lists what a module outside could not write down.
func unnameable(pkgs []*types.Package) []string {
	w := &walker{exported: exportedTypes(pkgs), seen: map[types.Type]bool{}}
	for _, p := range pkgs {
		for _, name := range p.Scope().Names() {
			w.object(p.Path(), p.Scope().Lookup(name))
		}
	}
	slices.Sort(w.problems)
	return slices.Compact(w.problems)
}

func TestAllThatIsExportedCanBeNamedOutside(t *testing.T) {
	for _, p := range unnameable(load(t, forOthers())) {
		t.Error(p)
	}
}

// The test above would see nothing if it looked at nothing: the engine's own package is
// not for others, and full of such names.
func TestWhatCannotBeNamedIsSeen(t *testing.T) {
	got := strings.Join(unnameable(load(t, []string{module + "vhdbridge"})), "\n")
	for _, want := range []string{
		"vhdbridge.ReadVHD names internal/vfs.File,",         // a parameter
		"vhdbridge.Facts.Image names internal/chain.Image,",  // a field
		"vhdbridge.Bridge.Store names internal/chain.Store,", // behind a pointer
		"vhdbridge.Scan names internal/vfs.FS,",              // one of several parameters
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

// An alias shows no members in its documentation: its comment has to tell them.
func TestCommentsOfAliasesTellTheMembers(t *testing.T) {
	for _, p := range load(t, forOthers()) {
		for name, text := range aliasComments(t, strings.TrimPrefix(p.Path(), module)) {
			o, ok := p.Scope().Lookup(name).(*types.TypeName)
			if !ok {
				t.Errorf("%s.%s: not a type", p.Path(), name)
				continue
			}
			for _, m := range memberNames(types.Unalias(o.Type())) {
				if !regexp.MustCompile(`\b` + m + `\b`).MatchString(text) {
					t.Errorf("%s.%s: its comment does not tell of %s", p.Path(), name, m)
				}
			}
		}
	}
}

// memberNames are the exported fields and methods, but those that every reader knows.
func memberNames(t types.Type) []string {
	var names []string
	if s, ok := t.Underlying().(*types.Struct); ok {
		for f := range s.Fields() {
			if f.Exported() {
				names = append(names, f.Name())
			}
		}
	}
	if i, ok := t.Underlying().(*types.Interface); ok {
		for m := range i.ExplicitMethods() { // what it embeds has a name of its own
			names = append(names, m.Name())
		}
		return names
	}
	methods := types.NewMethodSet(types.NewPointer(t))
	for i := range methods.Len() {
		if m := methods.At(i); m.Obj().Exported() && len(m.Index()) == 1 {
			names = append(names, m.Obj().Name())
		}
	}
	return slices.DeleteFunc(names, func(n string) bool { return n == "Error" || n == "String" })
}

// aliasComments are the comments of the exported aliases in a directory, by name.
func aliasComments(t *testing.T, dir string) map[string]string {
	t.Helper()
	comments := map[string]string{}
	files, err := filepath.Glob(filepath.Join("..", "..", dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatal(dir, err)
	}
	for _, path := range files {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || len(g.Specs) != 1 {
				continue
			}
			if s, ok := g.Specs[0].(*ast.TypeSpec); ok && s.Assign.IsValid() && s.Name.IsExported() {
				comments[s.Name.Name] = string(new(comment.Printer).Text(new(comment.Parser).Parse(g.Doc.Text())))
			}
		}
	}
	return comments
}

// What formats have in common is told once, and has to be in both packages.
func TestBothFormatsExportTheSame(t *testing.T) {
	qcow2 := commonText(t, "qcow2")
	vhd := commonText(t, "vhdbridge/vhd")
	if !bytes.Equal(qcow2, vhd) {
		t.Error("qcow2/common.go and vhdbridge/vhd/common.go differ by more than the names of their packages")
	}
}

func commonText(t *testing.T, dir string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", dir, "common.go"))
	if err != nil {
		t.Fatal(err)
	}
	b = regexp.MustCompile(`(?m)^package \w+$`).ReplaceAll(b, []byte("package"))
	return regexp.MustCompile(`\b(vhd|qcow2)\.Image\b`).ReplaceAll(b, []byte("Image"))
}
