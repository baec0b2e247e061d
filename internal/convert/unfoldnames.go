package convert

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// name gives each layer a path in dir: the active one that of the image, the others one
// with the name of the snapshot in it; equal ones are numbered.
func (u *Unfolding) name(dir, extension string) {
	base := filepath.Base(u.Image().Path)
	stem := strings.TrimSuffix(base, filepath.Ext(base))
	stem = stem[:min(len(stem), chain.MaxSafeName)]
	taken := map[string]bool{stem + extension: true}
	for _, l := range u.Layers {
		if l.Active {
			l.Path = filepath.Join(dir, stem+extension)
			continue
		}
		name := stem + "." + chain.SafeName(l.Name)
		for i := 2; taken[name+extension]; i++ {
			name = fmt.Sprintf("%s.%s-%d", stem, chain.SafeName(l.Name), i)
		}
		taken[name+extension] = true
		l.Path = filepath.Join(dir, name+extension)
		if l.State.Memory != nil {
			l.Memory = filepath.Join(dir, name+".memory")
		}
	}
}

// Move says that the layers are, or are to be, in another directory. They build on each
// other by names alone.
func (u *Unfolding) Move(dir string) {
	for _, l := range u.Layers {
		l.Path = filepath.Join(dir, filepath.Base(l.Path))
		if l.Memory != "" {
			l.Memory = filepath.Join(dir, filepath.Base(l.Memory))
		}
	}
}
