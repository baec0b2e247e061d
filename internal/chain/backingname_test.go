package chain

import "testing"

func TestOnlyStorageElsewhereIsNoFileForCertain(t *testing.T) {
	for name, want := range map[string]bool{
		"nbd://host/export":          true,
		`json:{"file.driver":"rbd"}`: true,
		`json:{"driver":"qcow2","file":{"driver":"nbd","host":"h"}}`: true,
		`json:{"driver":"qcow2","file":"node0"}`:                     false,
		"json:{":                                                     false,
	} {
		if got := IsRemote(name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}
