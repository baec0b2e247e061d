package vhdbridge

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// Whatever a guest or a snapshot is called, files get names of their own that lead nowhere.
func TestFilesAreCalledByGuestsAndDisks(t *testing.T) {
	dir := t.TempDir()
	for _, vdi := range []string{"11111111-a", "22222222-b", "33333333-c", "44444444-d", "55555555-e", "66666666-f", "web-disk7"} {
		node(t, dir, vdi, "", 8, false, 1, time.Time{})
	}
	node(t, dir, "77777777-base", "", 8, true, 1, time.Time{})
	node(t, dir, "88888888-disk", "77777777-base", 8, false, 1, time.Time{})
	node(t, dir, "99999999-snap", "77777777-base", 8, false, 0, time.Time{})
	node(t, dir, "aaaaaaaa-base", "", 8, true, 1, time.Time{})
	node(t, dir, "bbbbbbbb-one", "aaaaaaaa-base", 8, false, 1, time.Time{})
	node(t, dir, "cccccccc-two", "aaaaaaaa-base", 8, false, 1, time.Time{})
	repo, err := Scan(vfs.OS(), dir, readers())
	must(t, err)
	if repo.Stems() != nil {
		t.Error("nothing is known")
	}
	guest := func(uuid, name, device string) VDI {
		return VDI{VM: name, Device: device, Guest: Owner{UUID: uuid, Name: name}}
	}
	snap := guest("w", "mail.example.com", "0")
	snap.Snapshot, snap.Guest.Snapshot, snap.Guest.SnapshotName = true, "s", "x/../y.20240117T031500Z\n.a-20240117T031500Z"
	repo.Name(map[string]VDI{
		"11111111-a": guest("one-uuid", "web", "0"), "22222222-b": guest("two-uuid", "WEB", "0"), "33333333-c": guest("u", "../../etc/passwd", "0"),
		"44444444-d": guest("v", "", "0"), "55555555-e": {Name: "data\n.night-20240117T031500Z"}, "66666666-f": guest("l", strings.Repeat("é", 300), "1"),
		"88888888-disk": guest("w", "mail.example.com", "0"), "99999999-snap": snap, "web-disk7": guest("q", "x", "0/.."),
		"bbbbbbbb-one": guest("y", "y", "0"), "cccccccc-two": guest("z", "z", "0"),
	})
	got := map[string]string{}
	seen := map[string]bool{}
	for n, stem := range repo.Stems() {
		got[n.VDI] = stem
		path := filepath.Join("/to", stem+".qcow2")
		if filepath.Dir(path) != "/to" || len(stem) > 200 || !utf8.ValidString(stem) || strings.ContainsAny(stem, "\n,:/ ") || strings.HasPrefix(stem, ".") || seen[strings.ToLower(stem)] {
			t.Errorf("%q", stem)
		}
		if host.IsMade(path) {
			t.Errorf("%q looks like a layer of a snapshot", stem)
		}
		seen[strings.ToLower(stem)] = true
	}
	for vdi, want := range map[string]string{
		"11111111-a": "web-one-uuid-disk0", "22222222-b": "WEB-two-uuid-disk0", "33333333-c": "etc-passwd-disk0", "44444444-d": "", "55555555-e": "data-night-20240117T031500Z",
		"66666666-f": strings.Repeat("é", 30) + "-disk1", "88888888-disk": "mail.example.com-disk0", "99999999-snap": "mail.example.com-disk0@x-y-20240117T031500Z-a-20240117T031500Z",
		"77777777-base": "mail.example.com-disk0-base-77777777", "aaaaaaaa-base": "", "web-disk7": "", "bbbbbbbb-one": "y-disk0", "cccccccc-two": "z-disk0",
	} {
		if got[vdi] != want {
			t.Errorf("%s: %q, want %q", vdi, got[vdi], want)
		}
	}
}

// What has a name that another has already gets its UUID's beginning behind it.
func TestNoTwoFilesHaveOneName(t *testing.T) {
	dir := t.TempDir()
	for _, vdi := range []string{"11111111-a", "22222222-b", "22222222-c", "root"} {
		node(t, dir, vdi, "", 8, false, 1, time.Time{})
	}
	repo, err := Scan(vfs.OS(), dir, readers())
	must(t, err)
	repo.Name(map[string]VDI{"11111111-a": {Name: "root"}, "22222222-b": {Name: "Root"}, "22222222-c": {Name: "ROOT"}})
	stems := repo.Stems()
	for vdi, want := range map[string]string{"11111111-a": "root-11111111", "22222222-b": "Root-22222222", "22222222-c": "ROOT-22222222-c", "root": ""} {
		if got := stems[repo.Node(vdi)]; got != want {
			t.Errorf("%s: %q, want %q", vdi, got, want)
		}
	}
}
