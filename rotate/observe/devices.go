package observe

import (
	"maps"
	"path/filepath"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/blockid"
	"github.com/virt-rotate/virt-rotate/rotate/coord"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// devices finds out what all hosts call the block devices among the layers.
func (o *Observer) devices(w *World) {
	w.Devices = map[string]blockid.Device{}
	for _, l := range w.Forest.Layers() {
		o.noteDevice(w, l.Key)
	}
}

// noteDevice tells whether a layer is a block device that other hosts could have.
func (o *Observer) noteDevice(w *World, key string) bool {
	ask := o.Probes.Device
	if ask == nil {
		ask = blockDevice
	}
	d := ask(key)
	if d.Name == "" || len(d.On) == 0 {
		return false
	}
	w.Devices[key] = d
	return true
}

// blockDevice asks the kernel; a file is no device.
func blockDevice(key string) (d blockid.Device) {
	if rdev, ok := host.KeyDevice(key); ok {
		d = blockid.Sys{}.Device(rdev)
	}
	return d
}

// named is how hosts call a layer to each other, if it is on the storage: a block device is on all of them.
func (w *World) named(s coord.Storage, p placed) (coord.Layer, bool) {
	if d, ok := w.Devices[p.key]; ok {
		return coord.Layer{Path: p.path, Device: d.Name}, true
	}
	dev, ino := host.KeyID(p.key)
	return s.Locate(p.path, dev, ino)
}

// IsDevice tells whether a domain's layer at path is a block device that other hosts could have, too.
func (w *World) IsDevice(path string) bool { return w.Devices[path].Name != "" }

// onDevice notes on which storages hosts are that see the block device below a layer: what they use of it is told
// there.
func (w *World) onDevice(d *host.Domain, path string) {
	device, ok := w.Devices[w.KeyOf(d, path)]
	if !ok {
		return
	}
	w.Devices[path] = device
	for i := range w.Shares {
		if w.Shares[i].sees(device.On) && !slices.Contains(w.OnShares[path], i) {
			w.OnShares[path] = append(w.OnShares[path], i)
		}
	}
}

// sees tells whether another host sees one of these disks, or cannot be asked.
func (s *Share) sees(on []string) bool {
	return slices.ContainsFunc(s.View.Peers, func(p coord.Peer) bool {
		return p.Problem != "" && len(p.Told.Devices) == 0 || coord.Meet(p.Told.Devices, on)
	})
}

// disksBelow is what the layers lie on if all that are on a storage are block devices; nil otherwise.
func (w *World) disksBelow(layers []coord.Layer) []string {
	used := map[string]bool{}
	for _, l := range layers {
		if l.Device == "" && !l.Elsewhere {
			return nil
		}
		used[l.Device] = true
	}
	names := map[string]bool{}
	for _, d := range w.Devices {
		for _, name := range d.On {
			if used[d.Name] {
				names[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// Together tells whether other hosts can have the layer at path, and know it by the same name.
func (o *Observer) Together(w *World, path string) bool {
	if len(o.Fleet.On(filepath.Dir(path))) > 0 {
		return true
	}
	return w.IsDevice(path) && slices.ContainsFunc(w.Shares, func(s Share) bool { return s.sees(w.Devices[path].On) })
}
