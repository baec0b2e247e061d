package libvirthost

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"libvirt.org/go/libvirtxml"
)

// storedDomain is the part of a configuration inside a snapshot that rotation
// needs. Hosts have thousands of snapshots: reading the rest costs too much.
type storedDomain struct {
	Disks []libvirtxml.DomainDisk `xml:"devices>disk"`
}

type storedSnapshot struct {
	Name         string                           `xml:"name"`
	Description  string                           `xml:"description"`
	CreationTime string                           `xml:"creationTime"`
	Parent       string                           `xml:"parent>name"`
	Memory       *libvirtxml.DomainSnapshotMemory `xml:"memory"`
	Disks        []libvirtxml.DomainSnapshotDisk  `xml:"disks>disk"`
	Reverted     []libvirtxml.DomainSnapshotDisk  `xml:"revertDisks>disk"` // since libvirt 9.9
	Domain       *storedDomain                    `xml:"domain"`
	Inactive     *storedDomain                    `xml:"inactiveDomain"`
}

// addSnapshot adds a snapshot to d. What one names that cannot be read counts as in use.
func addSnapshot(d *host.Domain, text, current string, v *volumes) (*namedSnapshot, error) {
	s, err := v.read().snapshot(text)
	if err != nil {
		noteNames(d, text, v)
		return nil, err
	}
	s.addTo(d, current, v)
	return s, nil
}

// addTo adds the snapshot to d.
func (s *namedSnapshot) addTo(d *host.Domain, current string, v *volumes) {
	found := s.at(v)
	found.Current = found.Name == current
	d.Snapshots = append(d.Snapshots, found)
}

func (d *storedDomain) disk(target string) *libvirtxml.DomainDisk {
	if d == nil {
		return nil
	}
	for i := range d.Disks {
		if d.Disks[i].Target != nil && d.Disks[i].Target.Dev == target {
			return &d.Disks[i]
		}
	}
	return nil
}

// snapshotXML is the XML of a new snapshot. Every disk is named: libvirt
// would snapshot the ones that are not, under names of its own.
func snapshotXML(spec host.SnapshotSpec) (string, error) {
	x := libvirtxml.DomainSnapshot{
		Name: spec.Name, Description: spec.Description,
		Memory: &libvirtxml.DomainSnapshotMemory{Snapshot: "no"},
		Disks:  &libvirtxml.DomainSnapshotDisks{},
	}
	if m := spec.Memory; m != nil {
		x.Memory = &libvirtxml.DomainSnapshotMemory{Snapshot: "external", File: m.Path}
	}
	for _, target := range slices.Sorted(maps.Keys(spec.Overlays)) {
		x.Disks.Disks = append(x.Disks.Disks, libvirtxml.DomainSnapshotDisk{
			Name: target, Snapshot: "external",
			Driver: &libvirtxml.DomainDiskDriver{Type: "qcow2"},
			Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: spec.Overlays[target]}},
		})
	}
	for _, target := range spec.Exclude {
		x.Disks.Disks = append(x.Disks.Disks, libvirtxml.DomainSnapshotDisk{Name: target, Snapshot: "no"})
	}
	return x.Marshal()
}

// fixSnapshot returns the snapshot's XML with the chains of fix in its
// configurations, and everything else as it was. It is an error if something of
// it would be lost.
func fixSnapshot(text string, fix host.SnapshotFix) (string, error) {
	var x libvirtxml.DomainSnapshot
	if err := x.Unmarshal(text); err != nil {
		return "", fmt.Errorf("snapshot XML: %w", err)
	}
	tidySnapshotDisks(&x)
	if fix.Description != "" {
		x.Description = fix.Description
	}
	if fix.Parent != nil {
		x.Parent = nil
		if *fix.Parent != "" {
			x.Parent = &libvirtxml.DomainSnapshotParent{Name: *fix.Parent}
		}
	}
	if fix.Current && len(fix.Overlays) > 0 { // what a revert of libvirt's has made is not the present any more
		var err error
		if text, err = without(text, "revertDisks"); err != nil {
			return "", fmt.Errorf("snapshot XML: %w", err)
		}
	}
	fixOverlays(&x, fix.Overlays)
	if x.Domain != nil {
		fixDomain(x.Domain, fix.Chains, true)
	}
	if x.InactiveDomain != nil {
		fixDomain(&x.InactiveDomain.Domain, fix.Chains, false)
	}
	fixed, err := whole(text, x.Marshal)
	if err != nil {
		return "", fmt.Errorf("snapshot XML: %w", err)
	}
	return fixed, sameElements(text, fixed)
}

// whole is a document as libvirtxml writes it, with what it does not know of the text that it
// was read from.
func whole(text string, marshal func() (string, error)) (string, error) {
	out, err := marshal()
	if err != nil {
		return "", err
	}
	return carry(text, out)
}

// fixOverlays names other overlays, which are files.
func fixOverlays(x *libvirtxml.DomainSnapshot, overlays map[string]string) {
	if x.Disks == nil {
		return
	}
	for i := range x.Disks.Disks {
		d := &x.Disks.Disks[i]
		if path := overlays[d.Name]; path != "" {
			d.Source = newSource(d.Source, host.Layer{Path: path, Kind: host.KindFile})
		}
	}
}

// fixConfiguration is fixSnapshot for a domain's persistent configuration.
func fixConfiguration(text string, chains map[string][]host.Layer) (string, error) {
	var x libvirtxml.Domain
	if err := x.Unmarshal(text); err != nil {
		return "", fmt.Errorf("persistent configuration: %w", err)
	}
	fixDomain(&x, chains, false)
	fixed, err := whole(text, x.Marshal)
	if err != nil {
		return "", fmt.Errorf("persistent configuration: %w", err)
	}
	return fixed, sameElements(text, fixed)
}

// keepVolumes returns the configuration after a snapshot of a guest that is off, with
// what the new overlays build on, where that was named as a volume; "" where nothing of the
// kind is missing. libvirt leaves it to the overlays' headers, which know no volumes: with
// the next start the names would be lost.
func keepVolumes(before, after string) (string, error) {
	var old, x libvirtxml.Domain
	if err := errors.Join(old.Unmarshal(before), x.Unmarshal(after)); err != nil || old.Devices == nil || x.Devices == nil {
		return "", err
	}
	changed := false
	for i := range x.Devices.Disks {
		d := &x.Devices.Disks[i]
		was := volumeDisk(&old, d.Target)
		if was == nil || d.BackingStore != nil || d.Source == nil || d.Source.File == nil {
			continue
		}
		volume := *was.Source.Volume
		d.BackingStore = &libvirtxml.DomainDiskBackingStore{
			Format: &libvirtxml.DomainDiskFormat{Type: "raw"}, Source: &libvirtxml.DomainDiskSource{Volume: &volume}, BackingStore: was.BackingStore,
		}
		if was.Driver != nil && was.Driver.Type != "" {
			d.BackingStore.Format.Type = was.Driver.Type
		}
		changed = true
	}
	if !changed {
		return "", nil
	}
	fixDomain(&x, nil, false)
	fixed, err := x.Marshal()
	if err != nil {
		return "", fmt.Errorf("persistent configuration: %w", err)
	}
	return fixed, sameElements(after, fixed)
}

// volumeDisk is the disk of x with that target, if a volume is its active layer, or nil.
func volumeDisk(x *libvirtxml.Domain, target *libvirtxml.DomainDiskTarget) *libvirtxml.DomainDisk {
	for i := range x.Devices.Disks {
		d := &x.Devices.Disks[i]
		if target != nil && d.Target != nil && d.Target.Dev == target.Dev && d.Source != nil && d.Source.Volume != nil {
			return d
		}
	}
	return nil
}

// storedConfiguration returns the persistent configuration that a snapshot has on
// record, under the domain's present name and with these chains.
func storedConfiguration(text, domain string, chains map[string][]host.Layer) (string, error) {
	stored, err := storedText(text)
	if err != nil {
		return "", fmt.Errorf("snapshot XML: %w", err)
	}
	var x libvirtxml.Domain
	if err := x.Unmarshal(stored); err != nil {
		return "", fmt.Errorf("snapshot XML: %w", err)
	}
	x.Name = domain
	fixDomain(&x, chains, false)
	fixed, err := whole(stored, x.Marshal)
	if err != nil {
		return "", fmt.Errorf("snapshot XML: %w", err)
	}
	return fixed, sameElements(stored, fixed)
}

// tidySnapshotDisks takes out the empty <source> that libvirtxml reads into
// disks that have none.
func tidySnapshotDisks(x *libvirtxml.DomainSnapshot) {
	if x.Disks == nil {
		return
	}
	for i := range x.Disks.Disks {
		d := &x.Disks.Disks[i]
		if _, path := sourceOf(d.Source); path == "" {
			d.Source = nil
		}
	}
}

func fixDomain(x *libvirtxml.Domain, chains map[string][]host.Layer, end bool) {
	if x.Devices == nil {
		return
	}
	for i := range x.Devices.Disks {
		d := &x.Devices.Disks[i]
		tidyBacking(d)
		if d.Target == nil || len(chains[d.Target.Dev]) == 0 {
			continue
		}
		fixDisk(d, chains[d.Target.Dev], end)
	}
}

// tidyBacking writes the end of a chain as libvirt does: an empty element.
func tidyBacking(d *libvirtxml.DomainDisk) {
	for b := d.BackingStore; b != nil; b = b.BackingStore {
		if kind, _ := sourceOf(b.Source); kind == "" {
			b.Source = nil
		}
	}
}

// fixDisk puts the disk on chain, base first. With end the XML says that the
// chain ends there, so that libvirt does not look for more.
func fixDisk(d *libvirtxml.DomainDisk, chain []host.Layer, end bool) {
	before := backingSources(d)
	state := chain[len(chain)-1]
	d.Source = newSource(d.Source, state)
	if d.Driver == nil {
		d.Driver = &libvirtxml.DomainDiskDriver{Name: "qemu"}
	}
	d.Driver.Type = state.Format
	d.BackingStore = nil
	if end {
		d.BackingStore = &libvirtxml.DomainDiskBackingStore{}
	}
	for _, l := range chain[:len(chain)-1] {
		d.BackingStore = &libvirtxml.DomainDiskBackingStore{
			Format: &libvirtxml.DomainDiskFormat{Type: l.Format}, Source: newSource(before[nameOf(l)], l), BackingStore: d.BackingStore,
		}
	}
}

// backingSources are the sources below the active layer, by the names of their layers.
func backingSources(d *libvirtxml.DomainDisk) map[string]*libvirtxml.DomainDiskSource {
	sources := map[string]*libvirtxml.DomainDiskSource{}
	for b := d.BackingStore; hasLayer(b); b = b.BackingStore {
		sources[nameOf(layerAt(b.Source))] = b.Source
	}
	return sources
}

// nameOf is the name that libvirt has for a layer.
func nameOf(l host.Layer) string {
	if l.Volume != (host.Volume{}) {
		return l.Volume.String()
	}
	return l.Path
}

// newSource is the source of a layer; what old says beyond the place stays.
func newSource(old *libvirtxml.DomainDiskSource, l host.Layer) *libvirtxml.DomainDiskSource {
	s := libvirtxml.DomainDiskSource{}
	if old != nil {
		s = *old
	}
	s.Index = 0
	labels := labelsOf(&s)
	s.File, s.Block, s.Volume = nil, nil, nil
	switch {
	case l.Volume != host.Volume{}:
		s.Volume = &libvirtxml.DomainDiskSourceVolume{Pool: l.Volume.Pool, Volume: l.Volume.Name, Mode: l.Volume.Mode, SecLabel: labels}
	case l.Kind.IsDevice():
		s.Block = &libvirtxml.DomainDiskSourceBlock{Dev: l.Path, SecLabel: labels}
	default:
		s.File = &libvirtxml.DomainDiskSourceFile{File: l.Path, SecLabel: labels}
	}
	return &s
}

func labelsOf(s *libvirtxml.DomainDiskSource) []libvirtxml.DomainDeviceSecLabel {
	switch {
	case s.File != nil:
		return s.File.SecLabel
	case s.Block != nil:
		return s.Block.SecLabel
	case s.Volume != nil:
		return s.Volume.SecLabel
	}
	return nil
}

// sameElements compares the elements of two documents, leaving out those that
// describe chains.
func sameElements(before, after string) error {
	a, err := countElements(before)
	if err != nil {
		return err
	}
	b, err := countElements(after)
	if err != nil {
		return err
	}
	for name, n := range a {
		if b[name] < n {
			return fmt.Errorf("the XML has <%s>, which this version does not know: it is left as it is", name)
		}
	}
	return nil
}

// countElements counts elements by their path in the document.
func countElements(text string) (map[string]int, error) {
	counts := map[string]int{}
	var path []string
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		token, err := d.Token()
		switch {
		case errors.Is(err, io.EOF):
			return counts, nil
		case err != nil:
			return nil, err
		}
		switch t := token.(type) {
		case xml.StartElement:
			if t.Name.Local == "backingStore" || t.Name.Local == "source" && slices.Contains(path, "disk") {
				if err := d.Skip(); err != nil {
					return nil, err
				}
				continue
			}
			if len(path) == 1 && t.Name.Local == "parent" { // Redefine may take it away
				if err := d.Skip(); err != nil {
					return nil, err
				}
				continue
			}
			path = append(path, t.Name.Local)
			place := strings.Join(path, "/")
			counts[place]++
			for _, a := range t.Attr {
				if a.Name.Space == "xmlns" || a.Name.Local == "xmlns" {
					continue
				}
				counts[place+"@"+a.Name.Local]++
			}
		case xml.EndElement:
			path = path[:len(path)-1]
		}
	}
}
