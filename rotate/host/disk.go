package host

import (
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// HasFile tells whether that file is in the disk's chain, under whatever name.
func (d *Disk) HasFile(id vfs.ID) bool {
	return id != vfs.ID{} && slices.ContainsFunc(d.Chain, func(l Layer) bool { return l.ID == id })
}

// A Disk is one disk of a domain.
type Disk struct {
	Target    string // vda
	Kind      Kind
	Device    string // disk, cdrom, floppy, lun
	ReadOnly  bool
	Shareable bool
	Transient bool
	Encrypted bool
	Chain     []Layer  // what the domain uses now, base first, active layer last
	Inactive  []string // paths of the chain in the persistent configuration, base first; only as far as it is written there
	Job       *Job     // the block job that runs on the disk
	Problem   string   // why the chain could not be read in full
	Branch    bool     // no disk at all: the chain of a state that is on a branch
	Running   []string // paths of the chain that QEMU itself tells of, base first; asked only where libvirt may have missed the end of a merge
}

// Active returns the layer that the guest writes to; the disk has one.
func (d *Disk) Active() *Layer { return &d.Chain[len(d.Chain)-1] }

// Index returns the place of path in the chain, or -1.
func (d *Disk) Index(path string) int {
	for i := range d.Chain {
		if d.Chain[i].Path == path {
			return i
		}
	}
	return -1
}

// A Job is a block job on a disk.
type Job struct {
	Type       string // commit, active-commit, pull, copy, backup, …
	Done, Size int64  // libvirt's figures; their unit differs between versions
	Ready      bool   // an active commit that can be pivoted
	Target     string // the image that an active commit or a copy writes to; "" when unknown
}

// Within tells whether all of the disk's chain is the lower part of d's.
func (d *Disk) Within(disk *Disk) bool {
	k := d.Index(disk.Active().Path)
	return k >= 0 && k < len(d.Chain)-1
}

// BranchWith returns the branch that has the layer, or nil.
func BranchWith(branches []Disk, path string) *Disk {
	for i := range branches {
		if branches[i].Index(path) >= 0 {
			return &branches[i]
		}
	}
	return nil
}

// CloneChains copies disks with their chains, so that these can be changed.
func CloneChains(disks []Disk) []Disk {
	c := slices.Clone(disks)
	for i := range c {
		c[i].Chain = slices.Clone(c[i].Chain)
	}
	return c
}

// DiskWith returns the disk of d that writes to the layer, or nil.
func DiskWith(d *Domain, l *chain.Layer) *Disk {
	for i := range d.Disks {
		if disk := &d.Disks[i]; !disk.ReadOnly && len(disk.Chain) > 0 && disk.Active().Key() == l.Key {
			return disk
		}
	}
	return nil
}

// Paths are those of the layers, in their order.
func Paths(layers []Layer) []string {
	p := make([]string, len(layers))
	for i := range layers {
		p[i] = layers[i].Path
	}
	return p
}

// DiskOf returns the disk of d with that target, or nil; d may be nil.
func DiskOf(d *Domain, target string) *Disk {
	if d == nil {
		return nil
	}
	for i := range d.Disks {
		if d.Disks[i].Target == target {
			return &d.Disks[i]
		}
	}
	return nil
}
