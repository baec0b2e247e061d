package journal

import (
	"slices"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// An Adoption turns the internal snapshots of a domain into layers. Until the domain is on
// the new layers only files have been made, which may go; from then on the metadata is
// replaced, and nothing goes.
type Adoption struct {
	Made      []File             `json:"made"`      // the new layers, and files with saved memory
	Images    []string           `json:"images"`    // with the internal snapshots, which stay
	Snapshots []host.Replacement `json:"snapshots"` // parents first
}

// Switched tells whether the domain is on the new layers: all its disks get there at once.
func (a *Adoption) Switched(d *host.Domain) bool {
	return slices.ContainsFunc(a.Made, func(f File) bool { return host.BranchWith(d.Disks, f.Path) != nil })
}

// Makes tells whether the file at path is one of those that are made.
func (a *Adoption) Makes(path string) bool {
	return slices.ContainsFunc(a.Made, func(f File) bool { return f.Path == path })
}
