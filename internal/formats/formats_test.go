package formats

import (
	"errors"
	"slices"
	"testing"
)

func TestFormatsAreFoundByTheirNamesAndQEMUs(t *testing.T) {
	for name, want := range map[string]string{"qcow2": "qcow2", "vhd": "vhd", "vpc": "vhd", "raw": "raw"} {
		if f, err := Named(name); err != nil || f.Name != want {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
	var unknown *NameError
	_, err := Named("vdi")
	if !errors.As(err, &unknown) || err.Error() != `"vdi" is not a format that virt-rotate reads and writes (qcow2, vhd, raw); qemu-img convert makes an image of another format of one, or one of another` {
		t.Error(err)
	}
}

// Options of all formats are no maker's; all others are.
func TestEachOptionHasSomebodyWhoTakesIt(t *testing.T) {
	common := []string{"size", "preallocation", "backing_file", "backing_fmt"}
	values := []string{"on", "64k", "1.1", "16", "zlib", "fixed"}
	for _, f := range All() {
		for _, key := range f.Options {
			taken := slices.ContainsFunc(values, func(v string) bool { return f.New().Set(key, v) == nil })
			if taken == slices.Contains(common, key) {
				t.Errorf("%s: option %s: taken by its maker: %t", f.Name, key, taken)
			}
		}
	}
}
