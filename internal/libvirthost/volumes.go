package libvirthost

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// A place is where a volume of a storage pool lies.
type place struct {
	path    string    // its file or device, "" when that cannot be told
	kind    host.Kind // of what is there
	missing host.Missing
	why     string
	perhaps string // where it would be: who looks after users of files has to look there
	nowhere bool   // it is surely no file or device of this host
}

// volumes finds the files that the texts of one domain name as volumes of storage pools.
// A nil one finds none.
type volumes struct {
	find  func(host.Volume) place
	met   map[host.Volume]place
	texts *seenTexts // what was read before
}

func newVolumes(find func(host.Volume) place) *volumes {
	return &volumes{find: find, met: map[host.Volume]place{}}
}

// read has the texts that were read before.
func (v *volumes) read() *seenTexts {
	if v == nil {
		return nil
	}
	return v.texts
}

// at looks a volume up, once.
func (v *volumes) at(volume host.Volume) place {
	p, known := v.met[volume]
	if !known {
		p = v.find(volume)
		v.met[volume] = p
	}
	return p
}

// locate gives a layer that is named as a volume the path of its file, or says why not.
func (v *volumes) locate(l *host.Layer) {
	if v == nil || l.Kind != host.KindVolume {
		return
	}
	p := v.at(l.Volume)
	if l.Missing, l.Problem = p.missing, p.why; p.missing == "" {
		l.Path, l.Kind = p.path, p.kind
	}
}

// note adds to the domain what its volumes are: those whose files are known by their
// paths, those that may be files as files in use, and the rest as what may be any file,
// unless QEMU has it open and guards it.
func (v *volumes) note(d *host.Domain) {
	if v == nil {
		return
	}
	for _, volume := range slices.SortedFunc(maps.Keys(v.met), func(a, b host.Volume) int { return strings.Compare(a.String(), b.String()) }) {
		switch p := v.met[volume]; {
		case p.missing == "":
			nameVolume(d, p.path, volume)
		case p.nowhere:
		case p.perhaps != "":
			addElsewhere(d, p.perhaps)
		case !d.State.Live() || !hasVolume(d, volume):
			d.Unknown = append(d.Unknown, fmt.Sprintf("the file of volume %s is not known: %s", volume, p.why))
		}
	}
	presentNames(d)
}

// presentNames has the chains as they are say by what names files go: older texts may have
// others.
func presentNames(d *host.Domain) {
	for i := range d.Disks {
		for _, l := range d.Disks[i].Chain {
			if l.Volume == (host.Volume{}) {
				delete(d.Volumes, l.Path)
			} else if l.Missing == "" {
				nameVolume(d, l.Path, l.Volume)
			}
		}
	}
}

func nameVolume(d *host.Domain, path string, volume host.Volume) {
	if d.Volumes == nil {
		d.Volumes = map[string]host.Volume{}
	}
	d.Volumes[path] = volume
}

// hasVolume tells whether a layer that the domain has now is that volume.
func hasVolume(d *host.Domain, volume host.Volume) bool {
	return slices.ContainsFunc(d.Disks, func(disk host.Disk) bool {
		return slices.ContainsFunc(disk.Chain, func(l host.Layer) bool { return l.Volume == volume })
	})
}

func addElsewhere(d *host.Domain, path string) {
	if !slices.Contains(d.Elsewhere, path) {
		d.Elsewhere = append(d.Elsewhere, path)
	}
}

// runsOn compares a layer of a running guest, which is named as a volume, with the file
// that QEMU was given for it: the pool may be another one since.
func runsOn(d *host.Domain, disk *host.Disk, l *host.Layer, path string, same func(a, b string) bool) {
	if path == "" || l.Volume == (host.Volume{}) || l.Missing == "" && (l.Path == path || same(l.Path, path)) {
		return
	}
	addElsewhere(d, path)
	if l.Missing != "" {
		return
	}
	l.Problem = fmt.Sprintf("the guest runs on %s, and volume %s of storage pool %s is %s now", path, l.Volume.Name, l.Volume.Pool, l.Path)
	addElsewhere(d, l.Path)
	l.Missing, l.Kind, l.Path = host.VolumeMoved, host.KindVolume, l.Volume.String()
	disk.Kind = disk.Active().Kind
}

// inPool is where the volume of that name lies in a pool with this target, by the type of
// the pool; "" where only libvirt can tell.
func inPool(poolType, target, name string) string {
	if !slices.Contains(pathPools, poolType) || !filepath.IsAbs(target) || name == "" || name == "." || name == ".." || strings.Contains(name, "/") {
		return ""
	}
	return filepath.Join(target, name)
}

// pathPools are the types of pools whose volumes are files or devices with their names
// below the pool's target.
var pathPools = []string{"dir", "fs", "netfs", "logical"}
