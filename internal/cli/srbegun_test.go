package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

// A run with --again was broken off: one without does not make a second image beside what it has begun.
func TestSRConvertLeavesWhatAgainHasBegun(t *testing.T) {
	x := newXen(t, 4<<20, 5)
	x.disk([]byte("data"))
	must(t, "sr", "convert", "sr", "--to", "out")
	image, err := filepath.Glob("out/*.qcow2")
	if err != nil || len(image) != 1 {
		t.Fatal(image, err)
	}
	if err := os.Rename(image[0], image[0]+".unfinished"); err != nil {
		t.Fatal(err)
	}
	code, _, errs := try(t, "sr", "convert", "sr", "--to", "out")
	if code != term.ExitRefused || !strings.Contains(errs, "the same command goes on") {
		t.Errorf("%d %s", code, errs)
	}
	if left, err := filepath.Glob("out/*.qcow2"); err != nil || len(left) > 0 {
		t.Error(left, err)
	}
}
