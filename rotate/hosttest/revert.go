package hosttest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// Revert does what libvirt's own revert to an external snapshot does, since 9.9: it shuts the
// guest off, deletes what the current snapshot has for its files, and makes files of its own on
// the states.
func (h *Host) Revert(d *Domain, snapshot string) {
	i := slices.IndexFunc(d.Snapshots, func(s host.Snapshot) bool { return s.Name == snapshot })
	s := &d.Snapshots[i]
	made := map[string]string{}
	for _, sd := range s.Disks {
		if disk := host.DiskOf(&d.Domain, sd.Target); disk != nil && len(sd.State) > 0 {
			made[sd.Target] = h.onState(disk, sd.State[len(sd.State)-1])
			d.Want[sd.Target] = h.Read(made[sd.Target])
		}
	}
	for k := range d.Snapshots {
		if d.Snapshots[k].Current {
			d.deleteFiles(&d.Snapshots[k])
		}
		d.Snapshots[k].Current = k == i
	}
	branches := slices.ContainsFunc(d.Snapshots, func(o host.Snapshot) bool { return o.Parent == snapshot })
	for k := range s.Disks {
		sd := &s.Disks[k]
		switch {
		case branches:
			sd.Reverted = made[sd.Target]
		default:
			sd.Overlay = made[sd.Target]
		}
	}
	d.State = host.ShutOff
}

// onState gives the disk an empty file on the layer, named as libvirt does.
func (h *Host) onState(disk *host.Disk, state string) string {
	h.Written++
	name := strings.TrimSuffix(filepath.Base(state), filepath.Ext(state))
	path := filepath.Join(filepath.Dir(state), fmt.Sprintf("%s.%d", name, h.Now.Unix()+int64(h.Written)))
	h.Store(path, Image{Format: "qcow2", Size: Size, Backing: state, BackingFormat: h.Load(state).Format, Blocks: Blocks{}})
	disk.Chain = nil
	for _, p := range h.Walk(path) {
		disk.Chain = append(disk.Chain, host.Layer{Path: p, Format: h.Load(p).Format, Kind: "file"})
	}
	disk.Inactive = host.Paths(disk.Chain)
	return path
}

// deleteFiles deletes what the snapshot that was current has made, by its revert or itself.
func (d *Domain) deleteFiles(s *host.Snapshot) {
	reverted := slices.ContainsFunc(s.Disks, func(sd host.SnapshotDisk) bool { return sd.Reverted != "" })
	for k := range s.Disks {
		sd := &s.Disks[k]
		path := sd.Overlay
		if reverted {
			path = sd.Reverted
		}
		if path != "" {
			Must(os.Remove(path))
			d.Deleted[path] = true
		}
		sd.Reverted = ""
	}
}
