package vfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestRenameNewNeverReplaces(t *testing.T) {
	for name, rename := range map[string]func(a, b string) error{"RenameNew": RenameNew, "renameFree": renameFree} {
		dir := t.TempDir()
		from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
		link := filepath.Join(dir, "link")
		for path, text := range map[string]string{from: "new", to: "old"} {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink("nowhere", link); err != nil {
			t.Fatal(err)
		}
		for _, taken := range []string{to, link, dir} {
			if err := rename(from, taken); !errors.Is(err, fs.ErrExist) {
				t.Errorf("%s to %s: %v", name, taken, err)
			}
		}
		if b, _ := os.ReadFile(to); string(b) != "old" {
			t.Errorf("%s: the file is %q now", name, b)
		}
		free := filepath.Join(dir, "free")
		if err := rename(from, free); err != nil {
			t.Error(err)
		}
		if b, _ := os.ReadFile(free); string(b) != "new" {
			t.Errorf("%s: the file is %q now", name, b)
		}
		if err := rename(from, filepath.Join(dir, "x")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s of nothing: %v", name, err)
		}
	}
}
