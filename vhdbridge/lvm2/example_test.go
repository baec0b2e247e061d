package lvm2_test

import (
	"fmt"
	"os"

	"github.com/virt-rotate/virt-rotate/vhdbridge/lvm2"
)

// Without a device mapper: what logical volumes are on a copy of a physical volume.
func Example() {
	list := func(path string) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		pv, err := lvm2.Open(path, f, info.Size())
		if err != nil {
			return err
		}
		groups, err := lvm2.Groups(pv)
		if err != nil {
			return err
		}
		for _, g := range groups {
			for _, lv := range g.Volumes {
				fmt.Println(g.Name, lv.Name, lv.Size, lv.Err)
			}
		}
		return nil
	}
	fmt.Println(list("testdata/README.md"))
	// Output: testdata/README.md: no physical volume of LVM2: none of the first four sectors has a label
}
