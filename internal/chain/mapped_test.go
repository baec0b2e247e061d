package chain

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

func TestNamesOfTheDeviceMapper(t *testing.T) {
	for name, want := range map[string][]string{
		"vg-root":                 {"vg", "root"},
		"a--b-c--d--e":            {"a-b", "c-d-e"},
		"VG_XenStorage--0-VHD--1": {"VG_XenStorage-0", "VHD-1"},
		"a---b":                   {"a-", "b"},
		"vg-root-real":            nil,
		"plain":                   nil,
		"-a":                      nil,
		"a-":                      nil,
		"..-passwd":               nil,
		"VHD-a-b":                 nil,
	} {
		group, volume, ok := MappedVolume(name)
		if ok != (want != nil) || ok && !slices.Equal([]string{group, volume}, want) {
			t.Errorf("%s: %q %q %v", name, group, volume, ok)
		}
		if ok && mappedName(group, volume) != name {
			t.Errorf("%s becomes %s", name, mappedName(group, volume))
		}
	}
}

// A volume, or its copy beside the image, is found under whatever name it has; what is where
// the name says is not looked for elsewhere.
func TestVolumesAreLocated(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"VHD-1", "a--b-c", "lv"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	locate := LocateVolumes(vfs.OS())
	for name, want := range map[string]string{
		"./VG_XenStorage--0-VHD--1":           filepath.Join(dir, "VHD-1"),
		"/dev/mapper/VG_XenStorage--0-VHD--1": filepath.Join(dir, "VHD-1"),
		"/dev/a-b/c":                          filepath.Join(dir, "a--b-c"),
		"/dev/vg/lv":                          filepath.Join(dir, "lv"),
		"a--b-c":                              "a--b-c",
		"VHD-1":                               "VHD-1",
		"/dev/vg/gone":                        "/dev/vg/gone",
		"/srv/vg/lv":                          "/srv/vg/lv",
		"nbd://host/a-b":                      "nbd://host/a-b",
		"vg-gone":                             "vg-gone",
	} {
		if have := locate(filepath.Join(dir, "top"), name); have != want {
			t.Errorf("%s: %s, want %s", name, have, want)
		}
	}
}
