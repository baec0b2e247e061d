package packages_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Whether the pages say what the program does is tested beside it; here is whether they can be read.
func TestManualPagesAreCleanToMandocAndGroff(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob(top + "/man/*.[1-8]")
	must(t, err)
	if len(pages) < 10 {
		t.Fatalf("only %d pages: %q", len(pages), pages)
	}
	for _, page := range pages {
		out, _ := exec.Command("mandoc", "-Tlint", "-Wall", page).Output() // its exit status is that of what is left out, too
		for line := range strings.Lines(string(out)) {
			// Which pages are installed on this machine is no matter of the page.
			if !strings.Contains(line, "STYLE: referenced manual not found: Xr ") {
				t.Error(line)
			}
		}
		if text := output(t, exec.Command("mandoc", "-Tutf8", page)); strings.Count(text, "\n") < 30 {
			t.Errorf("mandoc makes this of %s:\n%s", page, text)
		}
		if warned := output(t, exec.Command("groff", "-mandoc", "-Tutf8", "-wmac", "-z", page)); warned != "" {
			t.Errorf("groff: %s", warned)
		}
	}
}
