package cli

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/invopop/jsonschema"
	"github.com/virt-rotate/virt-rotate/internal/cli/fleet"
	"github.com/virt-rotate/virt-rotate/internal/cli/guests"
	"github.com/virt-rotate/virt-rotate/internal/cli/image"
	"github.com/virt-rotate/virt-rotate/internal/cli/sr"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate"
)

var update = flag.Bool("update", false, "write the schemas of docs/json anew")

// schemas are made of the types that the commands print, with their comments.
func schemas(t *testing.T) map[string][]byte {
	t.Helper()
	t.Chdir("../..") // comments are known by the paths of their packages
	r := &jsonschema.Reflector{Anonymous: true, AllowAdditionalProperties: true, ExpandedStruct: true, Mapper: spelledOut}
	for _, dir := range []string{"internal/cli", "internal/formats", "internal/history", "internal/libvirthost", "internal/page", "policy", "rotate"} {
		if err := r.AddGoComments("github.com/virt-rotate/virt-rotate", dir); err != nil {
			t.Fatal(err)
		}
	}
	all := map[string]any{"error": errorReport{}}
	for _, reports := range []map[string]any{guests.Reports(), image.Reports(), sr.Reports(), fleet.Reports()} {
		maps.Copy(all, reports)
	}
	texts := map[string][]byte{}
	for name, v := range all {
		s := r.Reflect(v)
		s.Properties.Set("version", &jsonschema.Schema{Type: "integer", Const: term.JSONVersion})
		if err := s.Properties.MoveToFront("version"); err != nil {
			t.Fatal(err)
		}
		s.Required = append([]string{"version"}, s.Required...)
		data, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = append(data, '\n')
	}
	return texts
}

// spelledOut are types whose JSON is a word.
func spelledOut(t reflect.Type) *jsonschema.Schema {
	switch t {
	case reflect.TypeFor[rotate.Level]():
		return &jsonschema.Schema{Type: "string", Enum: []any{"OK", "WARNING", "CRITICAL", "UNKNOWN"}}
	case reflect.TypeFor[time.Duration](), reflect.TypeFor[policy.Bandwidth](), reflect.TypeFor[policy.MinFree](), reflect.TypeFor[policy.Window]():
		return &jsonschema.Schema{Type: "string"}
	}
	return nil
}

const schemaDir = "docs/json" // below the root

// A key that goes, or is called otherwise, breaks somebody's script: the schemas are part of
// the documentation, and change only on purpose (go test ./internal/cli -run Schemas -update).
func TestTheSchemasAreThoseOfWhatIsPrinted(t *testing.T) {
	texts := schemas(t)
	for name, text := range texts {
		path := filepath.Join(schemaDir, name+".json")
		if *update {
			if err := os.WriteFile(path, text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(path); err != nil || !bytes.Equal(text, want) {
			t.Errorf("%s is not what the program prints (%v): -update writes it anew; term.JSONVersion grows where a key has gone", path, err)
		}
	}
	files, err := filepath.Glob(filepath.Join(schemaDir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		if name := strings.TrimSuffix(filepath.Base(path), ".json"); texts[name] == nil {
			t.Errorf("%s is of no command", path)
		}
	}
}

// Keys are words with dashes, but for those of the policy file, which are spelled as there.
func TestKeysOfJSONHaveOneStyle(t *testing.T) {
	for name, text := range schemas(t) {
		var s any
		if err := json.Unmarshal(text, &s); err != nil {
			t.Fatal(err)
		}
		style := regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)
		if name == "policy-show" {
			style = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)
		}
		for _, key := range keysOf(s) {
			if !style.MatchString(key) {
				t.Errorf("%s: %s", name, key)
			}
		}
	}
}

// keysOf lists the properties in a schema, however deep.
func keysOf(v any) []string {
	var keys []string
	switch v := v.(type) {
	case map[string]any:
		if properties, ok := v["properties"].(map[string]any); ok {
			keys = slices.Collect(maps.Keys(properties))
		}
		for _, sub := range v {
			keys = append(keys, keysOf(sub)...)
		}
	case []any:
		for _, sub := range v {
			keys = append(keys, keysOf(sub)...)
		}
	}
	return keys
}
