package page

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

var update = flag.Bool("update", false, "write the pages of testdata anew")

func written(t *testing.T, m *Model) string {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// repository is one of XenServer's, with a name that is none.
func repository() *Model {
	return &Model{Time: noon(), Program: "virt-rotate 0.9", Repository: &Repository{Path: "/srv/sr", Nodes: 3, Physical: 9 << 30, Visible: 20 << 30, Coalesce: 2 << 30, Garbage: 1 << 30, AtLimit: 1,
		Findings: []Finding{{Level: Critical, Code: "wrong", Path: bidi, Detail: script}},
		Trees: []Layer{
			{Path: "/srv/sr/a.vhd", Label: script, Format: "vhd", Allocated: 4 << 30, Mark: Merges, Reclaim: 2 << 30, Why: "hidden, with one child", Children: []Layer{{Path: "/srv/sr/b.vhd", Format: "vhd", Allocated: 1 << 30, Mark: Active}}},
			{Path: "/srv/sr/c.vhd", Format: "vhd", Allocated: 1 << 30, Mark: Gone, Reclaim: 1 << 30, Why: quotes}}}}
}

func TestPagesAreAsTheyWere(t *testing.T) {
	for name, m := range map[string]*Model{"sample": sample(), "repository": repository(), "empty": {Time: noon(), Host: "kvm1", Level: OK, Summary: "no guest of this host needs a policy"}} {
		got, path := written(t, m), "testdata/"+name+".html"
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil || got != string(want) {
			t.Errorf("%s: %v, or it is another page (-update writes it anew):\n%s", path, err, got)
		}
	}
}

// A model can come from JSON: the page is the same.
func TestAModelSurvivesJSON(t *testing.T) {
	m := sample()
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var again Model
	if err := json.Unmarshal(data, &again); err != nil {
		t.Fatal(err)
	}
	if written(t, m) != written(t, &again) {
		t.Error("another page")
	}
}

// An element of a page, as a strict reader sees it.
type element struct {
	name string
	attr map[string]string
}

// elements reads HTML that is to be well-formed XML, too, and returns its elements and its text.
func elements(t *testing.T, text string) (all []element, words string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(text))
	var b strings.Builder
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return all, b.String()
		}
		if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			e := element{token.Name.Local, map[string]string{}}
			for _, a := range token.Attr {
				e.attr[a.Name.Local] = a.Value
			}
			all = append(all, e)
		case xml.CharData:
			b.Write(token)
		}
	}
}

// Parts of pages: nothing else is in one, whatever guests and files are called.
var (
	knownElements = strings.Fields("html head meta title style body a svg defs g circle rect path line use text header h1 h2 h3 h4 p main section ul ol li span b i q br code strong small " +
		"table thead tbody tr th td time dl div dt dd details summary progress figure figcaption footer")
	knownAttributes = strings.Fields("lang charset name content http-equiv class href width height aria-hidden aria-label aria-labelledby focusable id r x y x1 x2 y1 y2 d datetime role scope data-h " +
		"max value viewBox transform text-anchor open")
)

func TestNothingThatGuestsSayBecomesMarkup(t *testing.T) {
	for _, m := range []*Model{sample(), repository()} {
		all, words := elements(t, written(t, m))
		for _, e := range all {
			if !slices.Contains(knownElements, e.name) {
				t.Errorf("<%s>", e.name)
			}
			for name, value := range e.attr {
				if !slices.Contains(knownAttributes, name) {
					t.Errorf("<%s %s=%q>", e.name, name, value)
				}
				if name == "href" && !strings.HasPrefix(value, "#") {
					t.Errorf("a link to %q", value)
				}
			}
		}
		for _, want := range []string{script, Text(bidi).String()} {
			if !strings.Contains(words, want) {
				t.Errorf("%q is not told", want)
			}
		}
		if i := strings.IndexFunc(words, func(c rune) bool { return c != '\n' && hidden(c) }); i >= 0 {
			t.Errorf("something that nobody sees is at %q", words[max(0, i-20):i+8])
		}
	}
}

func TestAPageLoadsNothingAndHasOneStyleSheet(t *testing.T) {
	text := written(t, sample())
	styles := regexp.MustCompile(`(?s)<style>(.*?)</style>`).FindAllStringSubmatch(text, -1)
	if len(styles) != 1 || styles[0][1] != style {
		t.Fatalf("%d style sheets", len(styles))
	}
	if strings.Contains(style, "url(") || strings.Contains(style, "@import") || strings.Contains(style, "</") {
		t.Error("the style sheet loads something")
	}
	all, _ := elements(t, text)
	i := slices.IndexFunc(all, func(e element) bool { return e.attr["http-equiv"] == "Content-Security-Policy" })
	if i < 0 || all[i].attr["content"] != Policy() || !strings.HasPrefix(Policy(), "default-src 'none'; style-src 'sha256-") {
		t.Errorf("the policy is not %q", Policy())
	}
	if before := all[:max(i, 0)]; slices.ContainsFunc(before, func(e element) bool { return e.name == "style" || e.name == "link" }) {
		t.Error("the policy comes too late")
	}
	if !strings.Contains(text[:1024], Generator) {
		t.Error("the page does not say whose it is within its first KiB")
	}
}

// What links, labels and drawings refer to is there, once.
func TestWhatIsReferredToIsThere(t *testing.T) {
	for _, m := range []*Model{sample(), repository(), crowd(120, 3)} {
		all, _ := elements(t, written(t, m))
		ids := map[string]int{}
		for _, e := range all {
			if id, ok := e.attr["id"]; ok {
				ids[id]++
			}
		}
		for id, n := range ids {
			if n != 1 {
				t.Errorf("%d elements are called %s", n, id)
			}
		}
		for _, e := range all {
			for _, to := range []string{strings.TrimPrefix(e.attr["href"], "#"), e.attr["aria-labelledby"]} {
				if to != "" && ids[to] == 0 {
					t.Errorf("<%s> refers to %q, which is not there", e.name, to)
				}
			}
			if e.attr["role"] == "img" && e.attr["aria-label"] == "" || e.name == "th" && e.attr["scope"] == "" {
				t.Errorf("<%s %v> says nothing to a screen reader", e.name, e.attr)
			}
		}
	}
}

func TestFragmentsAreThePartsOfThePage(t *testing.T) {
	m := sample()
	f, err := NewFragments(m)
	if err != nil {
		t.Fatal(err)
	}
	whole := written(t, m)
	parts := []string{f.Symbols, f.Overview}
	for _, g := range f.Guests {
		parts = append(parts, g.HTML)
	}
	if len(f.Guests) != len(m.Guests) {
		t.Errorf("%d guests", len(f.Guests))
	}
	for _, p := range parts {
		elements(t, "<div>"+p+"</div>")
		if !strings.Contains(whole, p) {
			t.Errorf("not in the page: %s", p)
		}
	}
}

func TestClassesOfThePageHaveAStyle(t *testing.T) {
	all, _ := elements(t, written(t, sample()))
	for _, e := range all {
		for _, class := range strings.Fields(e.attr["class"]) {
			if !strings.Contains(style, "."+class) && !slices.Contains([]string{"l1", "notes"}, class) {
				t.Errorf("no style for <%s class=%q>", e.name, class)
			}
		}
	}
}

func TestWhatNobodySeesIsWrittenOut(t *testing.T) {
	for in, want := range map[Text]string{
		"web-1": "web-1", "größe": "größe", "a\nb": `a\nb`, "\u202egpj": `\u202egpj`, "\u2066x": `\u2066x`, "\x1b[31m": `\x1b[31m`, "\u200b": `\u200b`, "a\u00a0b": `a\u00a0b`, "\xff": `\xff`, "\uFFFD": "\uFFFD",
	} {
		if got := in.String(); got != want {
			t.Errorf("%q is shown as %s, want %s", string(in), got, want)
		}
	}
	long := Text(strings.Repeat("x", 5000))
	if got := long.String(); len(got) > mostLetters+len("…") || !strings.HasSuffix(got, "…") {
		t.Errorf("%d letters", len(got))
	}
	if unicode.IsPrint('\u202e') {
		t.Error("the standard library has changed its mind")
	}
}
