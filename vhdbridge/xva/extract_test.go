package xva

import (
	"slices"
	"testing"
)

func TestDisksAreChosenByUUIDInWhateverCase(t *testing.T) {
	vm := VM{Disks: []Disk{{ID: "Ref:1", UUID: "aa"}, {ID: "Ref:2", UUID: "bb"}, {ID: "Ref:3", UUID: "cc"}}}
	for _, c := range []struct{ uuids, want, missing []string }{
		{nil, []string{"Ref:1", "Ref:2", "Ref:3"}, nil},
		{[]string{"CC", "aa"}, []string{"Ref:1", "Ref:3"}, nil},
		{[]string{"bb", "DD", "ee"}, []string{"Ref:2"}, []string{"dd", "ee"}},
	} {
		disks, missing := vm.Choose(c.uuids)
		var got []string
		for _, d := range disks {
			got = append(got, d.ID)
		}
		if !slices.Equal(got, c.want) || !slices.Equal(missing, c.missing) {
			t.Errorf("%v: %v, missing %v", c.uuids, got, missing)
		}
	}
}

func TestNoMoreIsNeededThanThereIs(t *testing.T) {
	disks := []Disk{{Size: 100, Used: 10}, {Size: 5, Used: 50}}
	for length, want := range map[int64]int64{0: 15, 60: 60, 1000: 105} {
		if got := MostBytes(disks, length); got != want {
			t.Errorf("export of %d bytes: %d, want %d", length, got, want)
		}
	}
}
