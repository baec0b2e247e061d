package coord_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/virt-rotate/virt-rotate/rotate/coord"
)

// A merge that has filled the storage up has not lost its slot.
func TestASlotOfAFullStorageIsNotLost(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount, which needs root: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	s := storage(&coord.Fleet{StateDir: t.TempDir(), Shared: []string{dir}, Name: "host"})
	tell(t, s, told("web"))
	slot, err := s.Take(context.Background(), 1)
	must(err)
	if err := os.WriteFile(filepath.Join(dir, "ballast"), make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("it is not full")
	}
	if err := slot.Err(); err != nil {
		t.Error(err)
	}
	slot.Release()
}
