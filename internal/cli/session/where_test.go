package session

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/tidy"
)

func TestMain(m *testing.M) { os.Exit(tidy.Run(m.Run)) }

func TestWhosePolicyIsTaken(t *testing.T) {
	const own = "/home/u/.config/virt-rotate/policy.toml"
	for _, c := range []struct {
		uid   int
		there []string
		want  string
	}{
		{0, []string{own, SystemPolicy}, SystemPolicy},
		{0, []string{own}, SystemPolicy},
		{1000, []string{own, SystemPolicy}, own},
		{1000, []string{SystemPolicy}, SystemPolicy},
		{1000, nil, own},
	} {
		if got := defaultPolicy(c.uid, own, func(path string) bool { return slices.Contains(c.there, path) }); got != c.want {
			t.Errorf("user %d with %q: %s, want %s", c.uid, c.there, got, c.want)
		}
	}
}

func TestAFileThatOnlyOthersSeeIsThere(t *testing.T) {
	dir := t.TempDir()
	if there(filepath.Join(dir, "none")) || !there(dir) {
		t.Error("what is there is not, or the other way round")
	}
}
