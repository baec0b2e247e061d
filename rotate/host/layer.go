package host

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A Layer is one image of a disk's chain.
type Layer struct {
	Path      string
	Format    string  // as libvirt has it: never guessed
	Kind      Kind    // file or block; anything else cannot be merged
	Volume    Volume  `json:",omitzero"`  // how libvirt names it, where it does not by its path
	Missing   Missing `json:",omitempty"` // of a volume: why its file cannot be told; Path is POOL/VOLUME then
	Index     uint    // libvirt's number for it in a running domain, as in vda[3]
	Allocated int64   // bytes on disk
	Size      int64   // virtual size in bytes; 0 = unknown

	// Of a file of this host:
	ID        vfs.ID
	FS        uint64 // which file system it is on
	Mode      uint32 // permission bits
	Links     uint64 // names that the file has
	Symlink   bool   // Path is a symbolic link to it
	Image     *chain.Image
	BackingID vfs.ID // the file that Image.Backing names; zero when there is none
	Problem   string // why the file or its header could not be read
	// Use is what QEMU's image locks tell of it; asked only where no guest of this host
	// has it open.
	Use vfs.Use
}

// FileID is a file's identity on this host.
type FileID = vfs.ID

// Key is the layer's identity in a forest.
func (l *Layer) Key() string { return LayerKey(l.ID, l.Path) }

// LayerKey is a file's identity where it is known, else its path.
func LayerKey(id vfs.ID, path string) string {
	if id == (vfs.ID{}) {
		return path
	}
	return fmt.Sprintf("%d:%d", id.Dev, id.Ino)
}

// KeyID is the identity that a key of a forest has of a file; zeros for a device, and for what
// is known by its path alone.
func KeyID(key string) (dev, ino uint64) {
	before, after, _ := strings.Cut(key, ":")
	d, err1 := strconv.ParseUint(before, 10, 64)
	i, err2 := strconv.ParseUint(after, 10, 64)
	if err1 != nil || err2 != nil || (vfs.ID{Dev: d, Ino: i}).IsDevice() {
		return 0, 0
	}
	return d, i
}

// KeyDevice is the number of the block device that a key of a forest stands for; false for a file.
func KeyDevice(key string) (rdev uint64, ok bool) {
	before, after, _ := strings.Cut(key, ":")
	d, err1 := strconv.ParseUint(before, 10, 64)
	n, err2 := strconv.ParseUint(after, 10, 64)
	return n, err1 == nil && err2 == nil && (vfs.ID{Dev: d, Ino: n}).IsDevice()
}

// Rebase makes the layer's header name base, as a merge of what was between does.
func (l *Layer) Rebase(base *Layer) {
	if l.Image == nil {
		return
	}
	image := *l.Image
	image.Backing, image.BackingFormat = base.Path, base.Format
	l.Image, l.BackingID = &image, base.ID
}
