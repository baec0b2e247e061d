package policy

import (
	"maps"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

func TestKeysAreOnTheirLines(t *testing.T) {
	tests := []struct {
		name, src string
		want      map[string]int // all named keys
	}{
		{"empty", "", nil},
		{"comments only", "# a = 1\n  # [b]\n", nil},
		{"plain", "a = 1\n\nb=2 # c = 3\n  c\t=\t3", map[string]int{"a": 1, "b": 3, "c": 4}},
		{"crlf", "a = 1\r\n# x\r\nb = 2\r\n", map[string]int{"a": 1, "b": 3}},
		{"byte order mark", "\xef\xbb\xbfa = 1\nb = 2", map[string]int{"a": 1, "b": 2}},
		{"header", "[a]\nx = 1\n[a.b]\nx = 2", map[string]int{"a": 1, "a.x": 2, "a.b": 3, "a.b.x": 4}},
		{"header with blanks", "\n[ a . \"b\" ] # c\nx = 1", map[string]int{"a.b": 2, "a.b.x": 3}},
		{"dotted", "a.b.c = 1\na . d = 2", map[string]int{"a.b.c": 1, "a.d": 2}},
		{"quoted", "\"a b\".'c.d' = 1\n'\"q\"' = 2", map[string]int{`"a b"."c.d"`: 1, `"\"q\""`: 2}},
		{"escapes in keys", `"\u0061" = 1` + "\n" + `"b\"]=\\" = 2`, map[string]int{"a": 1, `"b\"]=\\"`: 2}},
		{"number-like", "1.2 = 3\n3 = 4", map[string]int{"1.2": 1, "3": 2}},
		{"inline table", "a = { b = 1, c.d = { e = 'x}' } }\nf = {}\ng = 1",
			map[string]int{"a": 1, "a.b": 1, "a.c.d": 1, "a.c.d.e": 1, "f": 2, "g": 3}},
		{"array over lines", "a = [ # ]\n 1,\n '#]',\n [2, 3],\n]\nb = 1", map[string]int{"a": 1, "b": 6}},
		{"tables in an array", "a = [{ b = 1 },\n { b = 2 }]\nb = 1", map[string]int{"a": 1, "b": 3}},
		{"inline table after arrays", "a = { b = [1,\n2], c = 3 }", map[string]int{"a": 1, "a.b": 1, "a.c": 2}},
		{"array of tables", "[[a]]\nb = 1\n[[a]]\nb = 2\n[c]\nd = 1", map[string]int{"a": 1, "c": 5, "c.d": 6}},
		{"basic string", `a = "b = \" ] # \\"` + "\nb = 1", map[string]int{"a": 1, "b": 2}},
		{"literal string", `a = 'c:\'` + "\nb = 1", map[string]int{"a": 1, "b": 2}},
		{"empty strings", "a = ''\nb = \"\"\nc = ''''''\nd = \"\"\"\"\"\"\ne = 1",
			map[string]int{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}},
		{"multi-line basic", "a = \"\"\"\nx = 1\n\\\"\"\" \\\\\"\"\"\nb = 1", map[string]int{"a": 1, "b": 4}},
		{"multi-line literal", "a = '''\n[x]\n\\'''\nb = 1", map[string]int{"a": 1, "b": 4}},
		{"quotes before the closing ones", "a = \"\"\"x\"\"\"\"\"\nb = '''y''''\nc = 1", map[string]int{"a": 1, "b": 2, "c": 3}},
		{"dates and floats", "a = 2026-11-20 07:00:00\nb = 07:00:00\nc = 1_0.5e-3\nd = [2026-11-20 07:00:00, 1979-05-27]\ne = -inf",
			map[string]int{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}},
		{"header in a value", "a = [\n[1],\n[2]\n]\n[b]", map[string]int{"a": 1, "b": 5}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var root map[string]any
			if _, err := toml.Decode(test.src, &root); err != nil {
				t.Fatalf("the test itself is no TOML: %v", err)
			}
			if got := indexLines(test.src).named; !maps.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestOwnHeaderWinsOverImpliedKey(t *testing.T) {
	x := indexLines("[a.b.c]\n\n[a.b]\nd = 1\n")
	for key, want := range map[string]int{"a": 1, "a b": 3, "a b c": 1, "a b d": 4, "a b none": 3, "none": 0} {
		if got := x.line(strings.Fields(key)); got != want {
			t.Errorf("line of %s = %d, want %d", key, got, want)
		}
	}
}

func TestIndexEndsOnTextThatIsNoTOML(t *testing.T) {
	for _, src := range []string{
		"]", "=", "[", "[[", "a", "a=", "a=[", "a={", "a={]", "a=[}", `"`, "'", `a="`, `a="\`, "'''", `a="""x`,
		"]]]]", "}", "a.", ".", "[a", "a = ]", "\x00", "a=[\x00", `"\x" = 1`,
	} {
		indexLines(src) // must return
	}
}
