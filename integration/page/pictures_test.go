//go:build page

package page_test

import "testing"

// $VIRT_ROTATE_PICTURES says where the pictures of the documentation are kept.
func TestPicturesOfTheDocumentation(t *testing.T) {
	file := written(t, hostModel())
	for name, anchor := range map[string]string{"overview": "", "guest": "#guest-3"} {
		if out, err := node(t, "shot.mjs", file, pictures(t), name, anchor); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}
