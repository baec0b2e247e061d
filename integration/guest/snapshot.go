package guest

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// A Snapshot is what libvirt lists under its name.
type Snapshot struct {
	Name    string
	Parent  string // "" for a root
	State   string // of the domain when it was taken: disk-snapshot, shutoff, …
	Created int64  // seconds since 1970
	Disks   []SnapshotDisk
}

// A SnapshotDisk is an overlay that came into being with a snapshot, and the layer that libvirt
// has on record for its state.
type SnapshotDisk struct {
	Target, Overlay, Format string
	State, StateFormat      string
}

// Snapshots lists a domain's snapshots, parents first.
func (h *Host) Snapshots(ctx context.Context, domain string) ([]Snapshot, error) {
	names, err := h.Virsh(ctx, "snapshot-list", domain, "--name", "--topological")
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(names) == "" {
		return nil, nil
	}
	var batch strings.Builder // one process for all: an embedded driver starts slowly
	for _, name := range strings.Fields(names) {
		fmt.Fprintf(&batch, "snapshot-dumpxml '%s' '%s';", domain, name)
	}
	out, err := h.Virsh(ctx, batch.String())
	if err != nil {
		return nil, err
	}
	return parseSnapshots(out)
}

func parseSnapshots(text string) ([]Snapshot, error) {
	var snapshots []Snapshot
	for in := xml.NewDecoder(strings.NewReader(text)); ; {
		var x snapshotXML
		err := in.Decode(&x)
		if errors.Is(err, io.EOF) {
			return snapshots, nil
		}
		if err != nil {
			return nil, fmt.Errorf("snapshot XML: %w", err)
		}
		snapshots = append(snapshots, x.snapshot())
	}
}

type snapshotXML struct {
	Name    string    `xml:"name"`
	State   string    `xml:"state"`
	Created int64     `xml:"creationTime"`
	Parent  string    `xml:"parent>name"`
	Disks   []diskXML `xml:"disks>disk"`
	Stored  []diskXML `xml:"domain>devices>disk"`
}

func (x snapshotXML) snapshot() Snapshot {
	s := Snapshot{Name: x.Name, Parent: x.Parent, State: x.State, Created: x.Created}
	for _, d := range x.Disks {
		if d.Snapshot == "external" && !x.readOnly(d.Name) {
			disk := SnapshotDisk{Target: d.Name, Overlay: d.path(), Format: d.Driver.Type}
			for _, was := range x.Stored {
				if was.Target.Dev == d.Name {
					disk.State, disk.StateFormat = was.path(), was.Driver.Type
				}
			}
			s.Disks = append(s.Disks, disk)
		}
	}
	return s
}

// readOnly tells whether the disk is one that guests only read: libvirt's own revert makes files
// for those as well.
func (x snapshotXML) readOnly(target string) bool {
	return slices.ContainsFunc(x.Stored, func(d diskXML) bool { return d.Target.Dev == target && d.ReadOnly != nil })
}

// StateLayer is the layer that holds a snapshot's state of one disk: the one below
// the overlay that was created with the snapshot.
func StateLayer(ctx context.Context, d SnapshotDisk) (Layer, error) {
	chain, err := stateChain(ctx, d)
	if err != nil {
		return Layer{}, err
	}
	return chain[0], nil
}

// stateChain is the StateLayer and what it builds on. When libvirt goes back to a snapshot
// itself, it deletes overlays; then its record tells.
func stateChain(ctx context.Context, d SnapshotDisk) ([]Layer, error) {
	if _, err := os.Stat(d.Overlay); errors.Is(err, fs.ErrNotExist) && d.State != "" {
		return Chain(ctx, d.State, d.StateFormat)
	}
	chain, err := Chain(ctx, d.Overlay, d.Format)
	if err != nil {
		return nil, err
	}
	if len(chain) < 2 {
		return nil, fmt.Errorf("overlay %s has no layer below it", d.Overlay)
	}
	return chain[1:], nil
}

// KeptStates reads the state of each snapshot of a domain, by snapshot name and
// disk, and checks that each is a prefix of the guest's writes, the disks of one
// snapshot being of one moment.
func (h *Host) KeptStates(ctx context.Context, domain string) (map[string]map[string]State, error) {
	snapshots, err := h.Snapshots(ctx, domain)
	if err != nil {
		return nil, err
	}
	kept := map[string]map[string]State{}
	for _, s := range snapshots {
		chains := map[string][]Layer{}
		for _, d := range s.Disks {
			if chains[d.Target], err = stateChain(ctx, d); err != nil {
				return nil, fmt.Errorf("snapshot %s: %w", s.Name, err)
			}
		}
		if kept[s.Name], err = h.readTogether(ctx, domain, chains); err != nil {
			return nil, fmt.Errorf("snapshot %s: %w", s.Name, err)
		}
	}
	return kept, nil
}
