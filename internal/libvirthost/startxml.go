package libvirthost

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"libvirt.org/go/libvirtxml"
)

// poolDirs are where libvirt has the XML of the pools of the system's daemon: of those that are active, and of all that are defined.
var poolDirs = []string{"/run/libvirt/storage", "/etc/libvirt/storage"}

// Starting reads the XML that libvirt's hooks get of a guest which is about to start, or has ended. Libvirt must not be asked
// meanwhile, so the files of volumes are found by what it has on disk of their pools.
func Starting(name, text string) (*host.Domain, error) {
	d := &host.Domain{Name: name}
	if err := readDomain(d, text, newVolumes(func(v host.Volume) place { return volumeOnDisk(poolDirs, v) })); err != nil {
		return nil, err
	}
	return d, nil
}

// volumeOnDisk finds the file of a volume by the XML of its pool in one of the directories.
func volumeOnDisk(dirs []string, v host.Volume) place {
	unknown := place{missing: host.NotTold, why: fmt.Sprintf("the file of volume %s in storage pool %s is not known while libvirt cannot be asked", v.Name, v.Pool)}
	if v.Pool == "" || v.Pool == "." || v.Pool == ".." || strings.Contains(v.Pool, "/") {
		return unknown
	}
	for _, dir := range dirs {
		text, err := os.ReadFile(filepath.Join(dir, v.Pool+".xml"))
		if err != nil {
			continue
		}
		if strings.Contains(string(text), "<poolstate") { // libvirt's own, around the same
			_, inner, _ := strings.Cut(string(text), "<pool ")
			inner, _, _ = strings.Cut(inner, "</poolstate>")
			text = []byte("<pool " + inner)
		}
		var x libvirtxml.StoragePool
		if err := x.Unmarshal(string(text)); err != nil || x.Target == nil || x.Name != v.Pool {
			continue
		}
		if path := inPool(x.Type, x.Target.Path, v.Name); path != "" {
			return place{path: path, kind: host.KindFile}
		}
	}
	return unknown
}
