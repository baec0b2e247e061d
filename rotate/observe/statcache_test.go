package observe

import (
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// What was seen before all was forgotten is not remembered afterwards, though the look ended
// only then: another domain's merge may have changed the file in between.
func TestALookThatBeganBeforeAChangeIsNotRemembered(t *testing.T) {
	var c statCache
	size := int64(1)
	look := func(string) (vfs.Info, error) { return vfs.Info{Size: size}, nil }
	if _, err := c.stat("/a", func(path string) (vfs.Info, error) {
		info, err := look(path)
		size = 2 // somebody merges
		c.forget()
		return info, err
	}); err != nil {
		t.Fatal(err)
	}
	if info, err := c.stat("/a", look); err != nil || info.Size != 2 {
		t.Errorf("%+v %v", info, err)
	}
	size = 3
	if info, _ := c.stat("/a", look); info.Size != 2 {
		t.Errorf("it was looked at again: %+v", info)
	}
}
