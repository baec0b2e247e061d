package libvirthost

import (
	"encoding/xml"
	"fmt"
	"strconv"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"libvirt.org/go/libvirtxml"
)

// A namedSnapshot is what the XML of a snapshot says, with layers under the names that the XML has: where volumes lie
// is found out each time. It is shared by all who look, and never changed.
type namedSnapshot struct {
	name, parent, description string
	seconds                   int64 // since 1970
	internal                  bool
	memory                    string
	disks                     []namedDisk
}

// A namedDisk is a disk of a snapshot.
type namedDisk struct {
	target   string
	internal bool
	external bool
	overlay  namedLayer // if external
	reverted string
	state    []namedLayer // base first
	format   string       // of the state
	cut      bool
	inactive []namedLayer
}

// A namedLayer is a layer as a text of libvirt's names it: by a path, or as a volume.
type namedLayer struct {
	path   string
	volume *host.Volume // nil: it is no volume
}

// nameSnapshot reads a snapshot's XML. Snapshot times are whole seconds.
func nameSnapshot(text string) (*namedSnapshot, error) {
	var x storedSnapshot
	if err := xml.Unmarshal([]byte(text), &x); err != nil {
		return nil, fmt.Errorf("snapshot XML: %w", err)
	}
	seconds, err := strconv.ParseInt(x.CreationTime, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: creation time %q is not a number", x.Name, x.CreationTime)
	}
	s := &namedSnapshot{
		name: x.Name, parent: x.Parent, description: x.Description, seconds: seconds,
		internal: x.Memory != nil && x.Memory.Snapshot == "internal",
	}
	if x.Memory != nil && x.Memory.Snapshot == "external" {
		s.memory = x.Memory.File
	}
	for i := range x.Disks {
		d := x.nameDisk(&x.Disks[i])
		s.internal = s.internal || d.internal
		s.disks = append(s.disks, d)
	}
	return s, nil
}

func (x *storedSnapshot) nameDisk(disk *libvirtxml.DomainSnapshotDisk) namedDisk {
	d := namedDisk{target: disk.Name, internal: disk.Snapshot == "internal", external: disk.Snapshot == "external"}
	if d.external {
		d.overlay = nameLayer(layerAt(disk.Source))
	}
	for i := range x.Reverted {
		if r := &x.Reverted[i]; r.Name == disk.Name && r.Snapshot == "external" {
			_, d.reverted = sourceOf(r.Source)
		}
	}
	if stored := x.Domain.disk(disk.Name); stored != nil {
		layers, cut := readChain(stored, nil)
		d.state, d.cut = nameLayers(layers), cut
		if n := len(layers); n > 0 {
			d.format = layers[n-1].Format
		}
	}
	if stored := x.Inactive.disk(disk.Name); stored != nil {
		layers, _ := readChain(stored, nil)
		d.inactive = nameLayers(layers)
	}
	return d
}

func nameLayer(l host.Layer) namedLayer {
	if l.Kind != host.KindVolume {
		return namedLayer{path: l.Path}
	}
	return namedLayer{l.Path, &l.Volume}
}

func nameLayers(layers []host.Layer) (named []namedLayer) {
	for i := range layers {
		named = append(named, nameLayer(layers[i]))
	}
	return named
}

// at is the snapshot with its layers where they lie.
func (s *namedSnapshot) at(v *volumes) host.Snapshot {
	found := host.Snapshot{
		Name: s.name, Parent: s.parent, Description: s.description, Time: time.Unix(s.seconds, 0),
		Internal: s.internal, Memory: s.memory,
	}
	for i := range s.disks {
		d := &s.disks[i]
		sd := host.SnapshotDisk{
			Target: d.target, Internal: d.internal, Reverted: d.reverted,
			State: pathsOf(d.state, v), Format: d.format, Cut: d.cut, Inactive: pathsOf(d.inactive, v),
		}
		if d.external {
			sd.Overlay = d.overlay.at(v)
		}
		found.Disks = append(found.Disks, sd)
	}
	return found
}

func pathsOf(layers []namedLayer, v *volumes) (paths []string) {
	if len(layers) > 0 {
		paths = make([]string, 0, len(layers))
	}
	for i := range layers {
		paths = append(paths, layers[i].at(v))
	}
	return paths
}

// at is the path of the layer, or the volume's name where that is not known.
func (n *namedLayer) at(v *volumes) string {
	l := host.Layer{Path: n.path}
	if n.volume != nil {
		l.Kind, l.Volume = host.KindVolume, *n.volume
	}
	v.locate(&l)
	return l.Path
}
