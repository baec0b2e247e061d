package page

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Cockpit's page has nothing from elsewhere, nothing inline, which its policy would not let run, and
// never puts text as HTML but the renderer's.
func TestCockpitsPageIsPlain(t *testing.T) {
	const dir = "../../cockpit/"
	read := func(name string) string {
		t.Helper()
		data, err := os.ReadFile(dir + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	var manifest struct {
		Policy string `json:"content-security-policy"`
	}
	if err := json.Unmarshal([]byte(read("manifest.json")), &manifest); err != nil || !strings.HasPrefix(manifest.Policy, "default-src 'self';") || strings.Contains(manifest.Policy, "unsafe") {
		t.Errorf("%v, policy %q", err, manifest.Policy)
	}
	index := read("index.html")
	if regexp.MustCompile(`(?i)<script[^>]*>[^<]|<style| style=| on[a-z]+=|https?:`).MatchString(index) {
		t.Error("index.html has something inline, or from elsewhere")
	}
	files, err := filepath.Glob(dir + "*.js")
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	for _, path := range files {
		text := read(filepath.Base(path))
		for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "http:", "https:", "new Function"} {
			if strings.Contains(text, bad) {
				t.Errorf("%s has %s", path, bad)
			}
		}
		for _, m := range regexp.MustCompile(`from "\./([a-z]+\.js)"`).FindAllStringSubmatch(text, -1) {
			read(m[1])
		}
		for _, m := range regexp.MustCompile(`at\("([a-z]+)"\)`).FindAllStringSubmatch(text, -1) {
			if !strings.Contains(index, `id="`+m[1]+`"`) {
				t.Errorf("%s looks for %s, which is not in index.html", path, m[1])
			}
		}
	}
	// A name that begins with a dash is no option: every command has "--" before it.
	for _, m := range regexp.MustCompile(`guest\.name\]?|guest\.name,`).FindAllStringIndex(read("actions.js"), -1) {
		line := lineAt(read("actions.js"), m[0])
		if strings.Contains(line, "run([") && !strings.Contains(line, `"--", guest.name`) {
			t.Errorf("a name may be taken for an option: %s", line)
		}
	}
}

func lineAt(text string, i int) string {
	start, end := strings.LastIndexByte(text[:i], '\n')+1, strings.IndexByte(text[i:], '\n')
	return text[start : i+end]
}
