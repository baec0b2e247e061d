package observe

import (
	"fmt"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// Users is who uses a file, under whatever name they know it.
type Users struct {
	Path      string   `json:"path"`
	Names     []string `json:"names"`     // other names under which it is in use
	Keepers   []string `json:"keepers"`   // disks, snapshots and configurations that need what is in it
	Images    []string `json:"images"`    // those that build on it
	Processes string   `json:"processes"` // what QEMU's image locks tell: "", "a reader", "a writer"
	Doubts    []string `json:"doubts"`    // what may use it, and cannot be read
}

// UsersOf tells who uses the file at path.
func (w *World) UsersOf(path string) (*Users, error) {
	info, err := vfs.Stat(path)
	if err != nil {
		return nil, err
	}
	u := &Users{Path: path, Names: []string{}, Keepers: []string{}, Images: []string{}, Doubts: []string{}}
	if l := w.Forest.Find(host.LayerKey(info.ID, path)); l != nil {
		if l.Path != path {
			u.Names = append(u.Names, l.Path)
		}
		u.Keepers = append(u.Keepers, l.Keepers...)
		for _, c := range l.Children {
			u.Images = append(u.Images, c.Path)
		}
	}
	if use, err := vfs.InUse(path); err == nil && use.Write {
		u.Processes = "a writer"
	} else if err == nil && use.Read {
		u.Processes = "a reader"
	}
	for _, s := range w.Strange {
		if s.mayBuildOn(path) {
			u.Doubts = append(u.Doubts, fmt.Sprintf("%s: %s", s.Path, s.Reason))
		}
	}
	return u, nil
}

// noteChains notes which domains name a layer in their chains, in so many words: one that
// goes is missed there, even where its data is in the layer above. Two of them are enough.
func (w *World) noteChains() {
	for i := range w.Domains {
		d := &w.Domains[i]
		for _, path := range d.WrittenDown() {
			if by := w.InChains[path]; len(by) < 2 && !slices.Contains(by, d.Name) {
				w.InChains[path] = append(by, d.Name)
			}
		}
	}
}

// NamedBy returns another domain than d that names the layer in a chain, or "".
func (w *World) NamedBy(path string, d *host.Domain) string {
	for _, name := range w.InChains[path] {
		if name != d.Name {
			return name
		}
	}
	return ""
}
