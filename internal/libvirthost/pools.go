//go:build cgo

package libvirthost

import (
	"context"
	"errors"
	"os"
	"slices"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// Pools returns the directories of the active storage pools: those whose target is
// one. Of another host nothing is returned.
func (h *Host) Pools(context.Context) (dirs []string, err error) {
	defer plain(&err)
	if h.remote {
		return nil, nil
	}
	pools, err := h.conn.ListAllStoragePools(libvirt.CONNECT_LIST_STORAGE_POOLS_ACTIVE)
	for _, none := range []libvirt.ErrorNumber{libvirt.ERR_NO_SUPPORT, libvirt.ERR_NO_CONNECT, libvirt.ERR_SYSTEM_ERROR} {
		if errors.Is(err, none) { // no storage driver, or its daemon does not run: no pool is active
			return nil, nil
		}
	}
	if err != nil {
		return nil, err
	}
	for i := range pools {
		dir, err := poolDir(&pools[i])
		_ = pools[i].Free()
		if err != nil && !errors.Is(err, libvirt.ERR_NO_STORAGE_POOL) {
			return nil, err
		}
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

// poolDir is the path of a pool's target, or "" for one of whole disks or of
// storage elsewhere.
func poolDir(pool *libvirt.StoragePool) (string, error) {
	text, err := pool.GetXMLDesc(0)
	if err != nil {
		return "", err
	}
	var x libvirtxml.StoragePool
	if err := x.Unmarshal(text); err != nil || x.Target == nil || !slices.Contains([]string{"dir", "fs", "netfs", "logical"}, x.Type) {
		return "", err
	}
	return x.Target.Path, nil
}
