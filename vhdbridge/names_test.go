package vhdbridge

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

func TestNamesOfNodes(t *testing.T) {
	for file, want := range map[string]nodeName{
		"a-b.vhd":      {vdi: "a-b", format: formatVHD, ext: ".vhd"},
		"a-b.raw":      {vdi: "a-b", format: formatRaw, ext: ".raw"},
		"a-b.qcow2":    {vdi: "a-b", format: formatQcow2, ext: ".qcow2"},
		"VHD-a-b":      {vdi: "a-b", format: formatVHD, prefix: "VHD-"},
		"LV-a-b":       {vdi: "a-b", format: formatRaw, prefix: "LV-"},
		"QCOW2-a-b":    {vdi: "a-b", format: formatQcow2, prefix: "QCOW2-"},
		"OLD_a-b.vhd":  {vdi: "a-b", format: formatVHD, ext: ".vhd", old: true},
		"VHD-OLD_a-b":  {vdi: "a-b", format: formatVHD, prefix: "VHD-", old: true},
		".a-b.vhd":     {},
		"VHD-":         {},
		".vhd":         {},
		"MGT":          {},
		"relink_a-b":   {},
		"hb-a-b":       {},
		"a-b.vhd.part": {},
	} {
		want.file = file
		have, ok := parseName(file)
		if ok != (want.format != "") || ok && have != want {
			t.Errorf("%s: %+v, %v", file, have, ok)
		}
		if ok && have.with(have.vdi) != strings.Replace(file, oldPrefix, "", 1) {
			t.Errorf("%s is %s for its own VDI", file, have.with(have.vdi))
		}
	}
	for path, want := range map[string]string{
		"./a-b.vhd": "a-b.vhd",
		"/dev/mapper/VG_XenStorage--0a1b--2c-VHD--a--b": "VHD-a-b",
		"/dev/mapper/VG_XenStorage--0a1b--2c-LV--a--b":  "LV-a-b",
		"/dev/VG_XenStorage-0a1b-2c/VHD-a-b":            "VHD-a-b",
	} {
		if have := parentName(path); have != want {
			t.Errorf("%s: %s", path, have)
		}
	}
	for file, want := range map[string]Journal{
		"relink_a-b":        {Kind: "relink", VDI: "a-b", file: "relink_a-b"},
		"leaf_a-b_c-d":      {Kind: "leaf", VDI: "a-b", Parent: "c-d", file: "leaf_a-b_c-d"},
		"coalesce_a-b_1":    {Kind: "coalesce", VDI: "a-b", file: "coalesce_a-b_1"},
		"coalesce_":         {},
		"something_a-b_c-d": {},
	} {
		if have, ok := parseJournal(file); ok != (want.Kind != "") || have != want {
			t.Errorf("%s: %+v, %v", file, have, ok)
		}
	}
}

// asVolumes gives the VHDs of a repository of files the names that logical volumes have.
func asVolumes(t *testing.T, b *Bridge, dir string) {
	t.Helper()
	r := scan(t, vfs.OS(), dir)
	for _, n := range r.Nodes {
		must(t, os.Rename(n.Path, filepath.Join(dir, "VHD-"+n.VDI)))
	}
	for _, n := range r.Nodes {
		if n.Parent != "" {
			parent := filepath.Join(dir, "VHD-"+strings.TrimSuffix(n.Parent, ".vhd"))
			must(t, b.Store.Relink(filepath.Join(dir, "VHD-"+n.VDI), formatVHD, parent, formatVHD))
		}
	}
}

// What is true of a repository of files is true of one with the names of logical volumes.
func TestCoalesceOfVolumes(t *testing.T) {
	for _, name := range []string{"01-linear", "04a-hidden-inner", "04c-garbage"} {
		t.Run(name, func(t *testing.T) {
			dir := unpack(t, name)
			b := bridge(vfs.OS())
			asVolumes(t, b, dir)
			r := scan(t, vfs.OS(), dir)
			p, err := r.Plan(vfs.OS(), Options{Leaf: true, Garbage: true})
			must(t, err)
			if len(p.Steps) == 0 {
				t.Fatal("nothing is planned")
			}
			_, failed, err := b.Run(t.Context(), r, p)
			if err != nil || len(failed) > 0 {
				t.Fatalf("%+v, %v", failed, err)
			}
			after := scan(t, vfs.OS(), dir)
			for _, m := range meta(t, dir) {
				if m.Hidden == 1 {
					continue
				}
				n := after.Node("VHD-" + strings.TrimSuffix(m.Name, ".vhd"))
				if n == nil || n.Err != nil || n.Hidden {
					t.Fatalf("%s: %+v", m.Name, n)
				}
				if have := sumOf(t, b, n); have != m.SHA256 {
					t.Errorf("%s reads otherwise than before", m.Name)
				}
			}
			wantClean(t, after)
		})
	}
}
