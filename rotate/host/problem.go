package host

import (
	"fmt"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// ChainProblem returns the first contradiction between a disk's chain and its
// image headers: code, path and a sentence, or "" when there is none.
func ChainProblem(disk *Disk) (code, path, detail string) {
	if disk.Problem != "" {
		return CodeUnreadable, disk.Target, disk.Problem
	}
	if len(disk.Chain) == 0 {
		return CodeUnreadable, disk.Target, "libvirt names no image for the disk"
	}
	for i := range disk.Chain {
		l := &disk.Chain[i]
		if l.Kind == KindVolume {
			return CodeVolumeDisk, disk.Target, l.Problem
		}
		if l.Problem != "" {
			return CodeUnreadable, l.Path, l.Problem
		}
		if code, detail := imageProblem(l); code != "" {
			return code, l.Path, detail
		}
		if detail := linkProblem(disk.Chain, i); detail != "" {
			return CodeMismatch, l.Path, detail
		}
	}
	return "", "", ""
}

// NotRead is said of a layer that nobody has looked at.
const NotRead = "the image's header was not read"

// imageProblem refuses images that a merge could damage.
func imageProblem(l *Layer) (code, detail string) {
	switch {
	case !l.Kind.HasPath():
		return CodeDiskKind, fmt.Sprintf("the layer is of type %q, not a file or a block device", l.Kind)
	case l.Format != "raw" && l.Format != "qcow2":
		return CodeFormat, fmt.Sprintf("format %q: only raw and qcow2 are rotated", l.Format)
	case l.Image == nil:
		return CodeUnreadable, NotRead
	case l.Image.Corrupt:
		return CodeCorrupt, "the image is marked as corrupt: repair it first (qemu-img check -r all)"
	case l.Image.Encrypted:
		return CodeEncrypted, "the image is encrypted: merging would need its key"
	case l.Image.DataFile:
		return CodeDataFile, "the image keeps its data in another file"
	case l.Image.Snapshots > 0:
		return CodeInternal, fmt.Sprintf("the image holds %s, which do not mix with external ones: qemu-img snapshot -l lists them; virt-rotate adopt --internal makes external ones of them, where there are no others yet", Plural(l.Image.Snapshots, "internal snapshot"))
	}
	return "", ""
}

// linkProblem compares the backing name in the header of layer i with layer i-1.
func linkProblem(layers []Layer, i int) string {
	l := &layers[i]
	if i == 0 {
		if l.Image.Backing != "" {
			return fmt.Sprintf("libvirt takes it for the base, but its header names the backing file %q", l.Image.Backing)
		}
		return ""
	}
	below := &layers[i-1]
	if l.Image.Backing == "" {
		return fmt.Sprintf("libvirt has it on %s, but its header names no backing file (virt-clone leaves the source's <backingStore> in a clone: if this is one, take that out with virsh edit)", below.Path)
	}
	if BackingPath(l) != below.Path && (l.BackingID != below.ID || below.ID == vfs.ID{}) {
		return fmt.Sprintf("libvirt has it on %s, but its header names the backing file %q", below.Path, l.Image.Backing)
	}
	if f := l.Image.BackingFormat; f != "" && f != below.Format {
		return fmt.Sprintf("its header takes %s for %s, libvirt for %s", below.Path, f, below.Format)
	}
	return ""
}

// InactiveProblem compares the persistent configuration with what runs.
func InactiveProblem(disk *Disk) string {
	n := len(disk.Inactive)
	if n == 0 {
		return "the persistent configuration lacks the disk: the guest would start without it"
	}
	for i := range min(n, len(disk.Chain)) {
		have, want := disk.Inactive[n-1-i], disk.Chain[len(disk.Chain)-1-i].Path
		if have != want {
			return fmt.Sprintf("the guest runs on %s, but its persistent configuration names %s", want, have)
		}
	}
	if n > len(disk.Chain) {
		return "the persistent configuration has a longer chain than the running guest"
	}
	return ""
}
