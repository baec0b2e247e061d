package hosttest

import (
	"fmt"
	"maps"
	"strings"
)

// Over is what a guest reads on these layers, whatever their headers name.
func (h *Host) Over(layers []string) Blocks {
	all := Blocks{}
	for _, path := range layers {
		maps.Copy(all, h.Load(path).Blocks)
	}
	return all
}

// Short takes the directory and the names' dates out of paths.
func (h *Host) Short(list []string) []string {
	s := make([]string, len(list))
	for i := range list {
		s[i] = h.Brief(list[i])
	}
	return s
}

// Brief writes S3 for the snapshot of 3 o'clock, and paths without the directory of the test.
func (h *Host) Brief(text string) string {
	text = strings.NewReplacer(h.Dir+"/img/", "", h.Dir+"/", "", ".qcow2", "").Replace(text)
	for n := range 24 {
		text = strings.ReplaceAll(text, Name(n), fmt.Sprintf("S%d", n))
	}
	return text
}
