package decide

import (
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// OverlayIn finds the disk that has the overlay in its chain, and its place there. Disks
// get other targets, so those do not tell.
func OverlayIn(disks []host.Disk, overlay string) (*host.Disk, int) {
	for i := range disks {
		if k := disks[i].Index(overlay); k >= 0 && overlay != "" {
			return &disks[i], k
		}
	}
	return nil, -1
}
