package image

import (
	"testing"
)

func TestOptionsAreReadAsByQemuImg(t *testing.T) {
	got, err := parseOptions([]string{"a=1,b=x,,y", "a=2", "b"}, []string{"a", "b"}, "qcow2")
	if err != nil || len(got) != 4 || got[3] != (option{"b", "on"}) || got[1] != (option{"b", "x,y"}) || got[2] != (option{"a", "2"}) {
		t.Errorf("%v, %v", got, err)
	}
}
