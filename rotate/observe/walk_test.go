package observe

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

func TestAStorageIsWhatIsMountedUnlessItIsTheSystems(t *testing.T) {
	for dir, want := range map[string]string{
		"/proc/sys/kernel": "/proc", // a mount of its own
		"/proc":            "/proc",
		"/dev/shm":         "/dev/shm",
		"/etc":             "/etc", // on the root, or a mount
		"/no/such/dir":     "/no/such/dir",
	} {
		if got := storageOf(dir); got != want {
			t.Errorf("%s: %s, want %s", dir, got, want)
		}
	}
	dir := t.TempDir()
	if got := storageOf(dir); got != dir {
		t.Errorf("%s: %s", dir, got)
	}
}

// A storage holds too much if the names in it are more than the limit; what is ignored does
// not count.
func TestWhatIsIgnoredDoesNotCountAsTooMuch(t *testing.T) {
	dir := t.TempDir()
	for i := range 20 {
		sub := filepath.Join(dir, fmt.Sprint("d", i%2))
		fatal(t, os.MkdirAll(sub, 0o755))
		fatal(t, os.WriteFile(filepath.Join(sub, fmt.Sprint(i)), nil, 0o600))
	}
	for most, want := range map[int]bool{19: true, 25: false} {
		if got := exceeds(dir, vfs.Limits{Entries: most, Depth: 3}, newIgnored(nil)); got != want {
			t.Errorf("%d: %v", most, got)
		}
	}
	if exceeds(dir, vfs.Limits{Entries: 15, Depth: 3}, newIgnored([]string{filepath.Join(dir, "d1")})) {
		t.Error("what is ignored counts")
	}
}

func fatal(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Where domains contradict each other about what builds on what, all of it is kept.
func TestAllLayersOfAContradictedChainAreKept(t *testing.T) {
	layers := func(paths ...string) (all []host.Layer) {
		for _, path := range paths {
			all = append(all, host.Layer{Path: path, Kind: "network"})
		}
		return all
	}
	w := newWorld()
	w.Domains = []host.Domain{
		{Name: "a", Disks: []host.Disk{{Target: "vda", Chain: layers("/a", "/b")}}},
		{Name: "b", Disks: []host.Disk{{Target: "vda", Chain: layers("/c", "/b", "/d")}}},
	}
	w.plant()
	for _, path := range []string{"/b", "/c", "/d"} {
		if l := w.Forest.Find(path); l == nil || !slices.Contains(l.Keepers, "disk b/vda") {
			t.Errorf("%s: %+v", path, l)
		}
	}
	if w.Domains[1].Disks[0].Problem == "" || !w.Forest.Find("/d").Active {
		t.Errorf("%+v", w.Domains[1].Disks[0])
	}
}
