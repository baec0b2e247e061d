//go:build page

package page_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/page"
	"github.com/virt-rotate/virt-rotate/internal/tidy"
)

const top = "../.." // of the checkout

var buildDir string

func TestMain(m *testing.M) {
	os.Exit(tidy.Run(func() int {
		dir, err := os.MkdirTemp("", "vr-page-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		buildDir = dir
		return m.Run()
	}))
}

// binary builds virt-rotate, once, when a test first needs it.
var binary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(buildDir, "virt-rotate")
	out, err := exec.Command("go", "build", "-tags", "libvirt_dlopen", "-o", path, top+"/cmd/virt-rotate").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// modules is where npm has put what drives the browser: see tools.sh.
func modules(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	must(t, err)
	return filepath.Join(cache, "virt-rotate", "page")
}

// pictures is where pictures go: $VIRT_ROTATE_PICTURES, to be looked at, or nowhere.
func pictures(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("VIRT_ROTATE_PICTURES"); dir != "" {
		must(t, os.MkdirAll(dir, 0o755))
		return dir
	}
	return t.TempDir()
}

// node runs a script of this directory and returns what it prints.
func node(t *testing.T, script string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "node", append([]string{script}, args...)...)
	cmd.Env = append(os.Environ(), "PAGE_MODULES="+modules(t))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// looked opens a page as people do, in all widths and colours.
func looked(t *testing.T, file, name string) {
	t.Helper()
	if out, err := node(t, "look.mjs", file, pictures(t), name); err != nil {
		t.Errorf("%s: %v\n%s", name, err, out)
	} else if out != "" {
		t.Log(out)
	}
}

func written(t *testing.T, m *page.Model) string {
	t.Helper()
	var b bytes.Buffer
	must(t, page.Write(&b, m))
	path := filepath.Join(t.TempDir(), "page.html")
	must(t, os.WriteFile(path, b.Bytes(), 0o600))
	return path
}

func TestPagesInABrowser(t *testing.T) {
	for _, name := range []string{"sample", "repository", "empty"} {
		path, err := filepath.Abs(top + "/internal/page/testdata/" + name + ".html")
		must(t, err)
		looked(t, path, name)
	}
	looked(t, written(t, hostModel()), "report")
}

// What is wrong with a page is seen: a page without its policy, with a script, a style, a
// picture from elsewhere, and without names for what there is to press.
func TestWhatIsWrongWithAPageIsSeen(t *testing.T) {
	data, err := os.ReadFile(top + "/internal/page/testdata/sample.html")
	must(t, err)
	text := string(data)
	bad := strings.Replace(text, `http-equiv="Content-Security-Policy"`, `name="nothing"`, 1)
	bad = strings.Replace(bad, `</main>`, `<img src="http://localhost/x.png"/><button></button><p style="width:3000px">x</p></main>`, 1)
	path := filepath.Join(t.TempDir(), "bad.html")
	must(t, os.WriteFile(path, []byte(bad), 0o600))
	out, err := node(t, "look.mjs", path, t.TempDir())
	for _, want := range []string{"request: http://localhost/x.png", "button-name", "image-alt", "pixels too wide", "a script in the page has run", "a style that is not the page's own has counted"} {
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("%s is not seen: %v\n%s", want, err, out)
		}
	}
}

func TestALargePageIsPaintedSoon(t *testing.T) {
	out, err := node(t, "paint.mjs", written(t, crowd(500, 30)))
	ms, bad := strconv.Atoi(strings.TrimSpace(out))
	if err != nil || bad != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if t.Logf("painted after %d ms", ms); ms > 1000 {
		t.Errorf("painted after %d ms", ms)
	}
}
