//go:build cgo

package libvirthost

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// volumeFinder looks volumes up, each once in a look at the host.
func (h *Host) volumeFinder() func(host.Volume) place {
	var mu sync.Mutex // guards known
	known := map[host.Volume]place{}
	return func(v host.Volume) place {
		mu.Lock()
		p, found := known[v]
		mu.Unlock()
		if found {
			return p
		}
		p = h.findVolume(v) // without the lock: a storage that hangs must not hang other domains
		mu.Lock()
		defer mu.Unlock()
		known[v] = p
		return p
	}
}

// findVolume asks libvirt for the file of a volume.
func (h *Host) findVolume(v host.Volume) place {
	pool, err := h.conn.LookupStoragePoolByName(v.Pool)
	if errors.Is(err, libvirt.ERR_NO_STORAGE_POOL) {
		return place{missing: host.NoPool, why: fmt.Sprintf("libvirt has no storage pool %s, of which it is volume %s", v.Pool, v.Name)}
	}
	if err != nil {
		return notTold(v, err)
	}
	defer pool.Free()
	active, err := pool.IsActive()
	if err != nil {
		return notTold(v, err)
	}
	if !active {
		return place{missing: host.PoolStopped, perhaps: perhaps(pool, v), why: fmt.Sprintf("storage pool %s, of which it is volume %s, is stopped", v.Pool, v.Name)}
	}
	vol, err := pool.LookupStorageVolByName(v.Name)
	if errors.Is(err, libvirt.ERR_NO_STORAGE_VOL) {
		return place{missing: host.NoVolume, perhaps: perhaps(pool, v), why: fmt.Sprintf("libvirt lists no volume %s in storage pool %s", v.Name, v.Pool)}
	}
	if err != nil {
		return notTold(v, err)
	}
	defer vol.Free()
	return placeIn(v, vol)
}

func notTold(v host.Volume, err error) place {
	plain(&err)
	return place{missing: host.NotTold, why: fmt.Sprintf("libvirt does not tell the file of volume %s in storage pool %s: %v", v.Name, v.Pool, err)}
}

func placeIn(v host.Volume, vol *libvirt.StorageVol) place {
	path, err := vol.GetPath()
	if err != nil {
		return notTold(v, err)
	}
	info, err := vol.GetInfo()
	switch {
	case err != nil && filepath.IsAbs(path): // it is not there: whoever looks at the file sees that
		return place{path: path, kind: host.KindFile}
	case err != nil:
		return notTold(v, err)
	case info.Type == libvirt.STORAGE_VOL_FILE:
		return place{path: path, kind: host.KindFile}
	case info.Type == libvirt.STORAGE_VOL_BLOCK && v.Mode != "direct":
		return place{path: path, kind: host.KindBlock}
	}
	return place{missing: host.NoFile, nowhere: true, why: fmt.Sprintf("volume %s of storage pool %s is no file or device of this host", v.Name, v.Pool)}
}

// perhaps is where a volume would be that the pool does not open.
func perhaps(pool *libvirt.StoragePool, v host.Volume) string {
	text, err := pool.GetXMLDesc(0)
	if err != nil {
		return ""
	}
	var x libvirtxml.StoragePool
	if err := x.Unmarshal(text); err != nil || x.Target == nil {
		return ""
	}
	return inPool(x.Type, x.Target.Path, v.Name)
}

// observeVolumes asks what files a running guest really has for its volumes.
func (h *Host) observeVolumes(dom *libvirt.Domain, d *host.Domain) error {
	if !namesVolumes(d) {
		return nil
	}
	all, err := h.conn.GetAllDomainStats([]*libvirt.Domain{dom}, libvirt.DOMAIN_STATS_BLOCK, libvirt.CONNECT_GET_ALL_DOMAINS_STATS_BACKING)
	if errors.Is(err, libvirt.ERR_NO_SUPPORT) {
		return nil
	}
	if err != nil {
		return err
	}
	for i := range all {
		for _, b := range all[i].Block {
			if disk := host.DiskOf(d, b.Name); disk != nil && b.BackingIndexSet {
				h.runsOn(d, disk, b)
			}
		}
		_ = all[i].Domain.Free()
	}
	return nil
}

func (h *Host) runsOn(d *host.Domain, disk *host.Disk, b libvirt.DomainStatsBlock) {
	for i := range disk.Chain {
		if l := &disk.Chain[i]; l.Index == b.BackingIndex {
			runsOn(d, disk, l, b.Path, h.sameFile)
		}
	}
}

func (h *Host) sameFile(a, b string) bool {
	x, err := os.Stat(a)
	y, err2 := os.Stat(b)
	return !h.remote && err == nil && err2 == nil && os.SameFile(x, y)
}

func namesVolumes(d *host.Domain) bool {
	for i := range d.Disks {
		for _, l := range d.Disks[i].Chain {
			if l.Volume != (host.Volume{}) {
				return true
			}
		}
	}
	return false
}
