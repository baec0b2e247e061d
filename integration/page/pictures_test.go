//go:build page

package page_test

import (
	"os"
	"testing"
)

// Where $VIRT_ROTATE_PICTURES says so, the pictures of the documentation are made anew there.
func TestPicturesOfTheDocumentation(t *testing.T) {
	if os.Getenv("VIRT_ROTATE_PICTURES") == "" {
		t.Skip("VIRT_ROTATE_PICTURES names no directory for them")
	}
	file := written(t, hostModel())
	for name, anchor := range map[string]string{"overview": "", "guest": "#guest-3"} {
		if out, err := node(t, "shot.mjs", file, pictures(t), name, anchor); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}
