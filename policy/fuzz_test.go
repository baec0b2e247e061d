package policy

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/BurntSushi/toml"
)

// FuzzParse: whatever the text, Parse ends with Problems that have a place,
// or with rules that hold what the package comment says and print to
// themselves.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/good/*.toml", "testdata/bad/*.toml", "../examples/*.toml"} {
		addSeeds(f, pattern)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("fuzz", data)
		if err != nil {
			checkProblems(t, file, err)
			return
		}
		for i := range file.Rules {
			checkPrinted(t, &file.Rules[i])
		}
		checkIndex(t, data)
	})
}

func addSeeds(f *testing.F, pattern string) {
	f.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		f.Fatalf("no seeds %s: %v", pattern, err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
}

func checkProblems(t *testing.T, file *File, err error) {
	t.Helper()
	var problems Problems
	if file != nil || !errors.As(err, &problems) || len(problems) == 0 {
		t.Fatalf("%v and %v; want Problems alone", file, err)
	}
	for _, p := range problems {
		if p.File != "fuzz" || p.Line < 1 || p.Text == "" {
			t.Fatalf("a problem without a place: %+v", p)
		}
	}
}

func checkPrinted(t *testing.T, r *Rule) {
	t.Helper()
	again, err := Parse("printed", []byte(r.TOML()))
	if err != nil || len(again.Rules) != 1 || !sameRule(again.Rules[0], *r) {
		t.Fatalf("printed rule reads back as %+v, %v\n%s", again, err, r.TOML())
	}
	if r.Line < 1 || len(r.Domains) == 0 || r.Keep.Last+1 > r.MaxChain {
		t.Fatalf("accepted: %+v", r)
	}
}

// checkIndex wants a line for every key that the TOML library found. Files
// that Parse accepts have no arrays of tables.
func checkIndex(t *testing.T, data []byte) {
	t.Helper()
	var root map[string]any
	meta, err := toml.Decode(string(data), &root)
	if err != nil {
		t.Fatal(err)
	}
	x := indexLines(string(data))
	for _, key := range meta.Keys() {
		if !x.has(key) {
			t.Fatalf("no line for key %s in\n%s", key, data)
		}
	}
}
