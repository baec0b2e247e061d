// Package schematest holds what commands print as JSON against the schemas of docs/json.
package schematest

import (
	"encoding/json"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// compiled are the schemas of docs/json, by the words of the commands.
var compiled = sync.OnceValues(func() (map[string]*jsonschema.Schema, error) {
	_, self, _, _ := runtime.Caller(0)
	files, err := filepath.Glob(filepath.Join(filepath.Dir(self), "../../docs/json/*.json"))
	if err != nil {
		return nil, err
	}
	all, c := map[string]*jsonschema.Schema{}, jsonschema.NewCompiler()
	c.AssertFormat()
	for _, path := range files {
		if all[strings.TrimSuffix(filepath.Base(path), ".json")], err = c.Compile(path); err != nil {
			return nil, err
		}
	}
	return all, nil
})

// Fits fails the test unless the JSON that a command has printed is as docs/json says.
func Fits(t testing.TB, args []string, output string) {
	t.Helper()
	for len(args) > 1 && strings.HasPrefix(args[0], "--") { // of the program, not of the command
		if strings.Contains(args[0], "=") {
			args = args[1:]
		} else {
			args = args[2:]
		}
	}
	at := slices.IndexFunc(args, func(a string) bool { return a == "--output=json" || a == "--output" })
	if at < 0 || likeQemuImg(args) || args[at] == "--output" && (at+1 == len(args) || args[at+1] != "json") {
		return // of qemu-img's form, or none
	}
	schemas, err := compiled()
	if err != nil {
		t.Fatal(err)
	}
	words := slices.DeleteFunc(slices.Clone(args), func(a string) bool { return strings.HasPrefix(a, "-") })
	name := strings.Join(words[:min(2, len(words))], "-")
	if schemas[name] == nil {
		name = words[0]
	}
	if name == "tree" && slices.Contains(args, "--who") {
		name = "tree-who"
	}
	if schemas[name] == nil {
		t.Fatalf("%q has no schema in docs/json", args)
	}
	var v any
	if err := json.Unmarshal([]byte(output), &v); err != nil {
		t.Fatalf("%q prints no JSON: %v\n%s", args, err, output)
	}
	if err := schemas[name].Validate(v); err != nil {
		t.Errorf("%q prints what docs/json/%s.json does not allow: %v\n%s", args, name, err, output)
	}
}

// likeQemuImg tells whether the command prints what qemu-img prints.
func likeQemuImg(args []string) bool {
	return args[0] == "image" && len(args) > 1 && slices.Contains([]string{"info", "map", "check", "measure"}, args[1])
}
