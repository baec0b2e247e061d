package host

// A Kind is what a disk or a layer lies on: libvirt's type of a disk. Everything that
// depends on it is asked here.
type Kind string

// The kinds that libvirt has names for. A volume whose file is known is of the kind of that.
const (
	KindFile      Kind = "file"
	KindBlock     Kind = "block"
	KindNetwork   Kind = "network"
	KindVolume    Kind = "volume"
	KindDir       Kind = "dir"
	KindNVMe      Kind = "nvme"
	KindVHostUser Kind = "vhostuser"
)

// HasPath tells whether it has a path on its host, at which it can be looked at, merged
// and opened.
func (k Kind) HasPath() bool { return k == KindFile || k == KindBlock }

// IsFile tells whether it is a file, which can be deleted, cloned and have several names.
func (k Kind) IsFile() bool { return k == KindFile }

// IsDevice tells whether it has the size that it has, however much data is in it.
func (k Kind) IsDevice() bool { return k == KindBlock }

// Obstacle is why a disk of the kind can have no overlay, with the code of the refusal; ""
// where it can.
func (k Kind) Obstacle() (code, why string) {
	switch {
	case k.HasPath():
		return "", ""
	case k == KindNetwork:
		return CodeNetworkDisk, "a network disk has no local overlay"
	case k == KindVolume:
		return CodeVolumeDisk, "the file of the volume is not known"
	}
	return CodeDiskKind, "disks of type \"" + string(k) + "\" cannot be rotated"
}
