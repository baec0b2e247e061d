package convert

import (
	"fmt"
	"path/filepath"
	"strings"
)

// maxSafeName bounds what of a snapshot's name gets into the name of a file, in bytes:
// with the name of the image and a number it has to be a name that file systems take.
const maxSafeName = 80

// SafeName is what of a snapshot's name can be in the name of a file: letters, digits and
// what is harmless between them. Whoever wrote the image has chosen the name.
func SafeName(name string) string {
	safe := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("._+-", r):
			return r
		}
		return '_'
	}, name)
	safe = strings.TrimLeft(safe[:min(len(safe), maxSafeName)], ".-")
	if safe == "" {
		return "snapshot"
	}
	return safe
}

// name gives each layer a path in dir: the active one that of the image, the others one
// with the name of the snapshot in it; equal ones are numbered.
func (u *Unfolding) name(dir, extension string) {
	base := filepath.Base(u.Image().Path)
	stem := strings.TrimSuffix(base, filepath.Ext(base))
	stem = stem[:min(len(stem), maxSafeName)]
	taken := map[string]bool{stem + extension: true}
	for _, l := range u.Layers {
		if l.Active {
			l.Path = filepath.Join(dir, stem+extension)
			continue
		}
		name := stem + "." + SafeName(l.Name)
		for i := 2; taken[name+extension]; i++ {
			name = fmt.Sprintf("%s.%s-%d", stem, SafeName(l.Name), i)
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
