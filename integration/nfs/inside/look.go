package inside

import (
	"context"

	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/rotate/coord"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// A guest is a libvirt that has one domain, shut off, with one disk.
type guest struct {
	host.Looker
	chain []string
}

// Remote is for files of this host.
func (g guest) Remote() bool { return false }

// Domains returns none if there is no chain.
func (g guest) Domains(context.Context, ...string) ([]host.Domain, error) {
	if len(g.chain) == 0 {
		return nil, nil
	}
	d := host.Disk{Target: "vda", Kind: host.KindFile, Device: "disk", Inactive: g.chain}
	for _, path := range g.chain {
		d.Chain = append(d.Chain, host.Layer{Path: path, Format: "qcow2", Kind: host.KindFile})
	}
	return []host.Domain{{Name: "web", UUID: "00000000-0000-4000-8000-000000000001", State: host.ShutOff, Disks: []host.Disk{d}}}, nil
}

// Pools are none.
func (g guest) Pools(context.Context) ([]string, error) { return nil, nil }

// A Look is what a run looks at before it decides: a guest with a chain of layers, base first.
type Look struct {
	Host
	Chain []string
}

// Seen is what it sees.
type Seen struct {
	Problems   []string // of storages
	Remedies   []string
	LocalLocks []string // of directories
	Images     int      // of the forest: layers, and what lies beside them
	Unread     []string // layers that could not be read
}

// An eye remembers what it has seen, as a run does between its looks.
type eye struct{ *observe.Observer }

// Eye returns the number of a new one.
func (s *Storages) Eye(l Look, number *int) error {
	fleet := &coord.Fleet{Name: l.Name, StateDir: l.State}
	if l.Shared {
		fleet.Shared = []string{l.Dir}
	}
	fleet.On(l.Dir)
	*number = s.open.add(eye{&observe.Observer{Host: guest{chain: l.Chain}, Inspect: formats.Inspect, StateDir: l.State, Fleet: fleet}})
	return nil
}

// Look looks once.
func (s *Storages) Look(number int, seen *Seen) error {
	o, err := thing[eye](s.open, number)
	if err != nil {
		return err
	}
	w, err := o.Observe(context.Background())
	if err != nil {
		return err
	}
	for i := range w.Shares {
		seen.Problems, seen.Remedies = append(seen.Problems, w.Shares[i].Problem), append(seen.Remedies, w.Shares[i].Remedy)
	}
	for _, why := range w.LocalLocks {
		seen.LocalLocks = append(seen.LocalLocks, why)
	}
	seen.Images = len(w.Forest.Layers())
	for _, d := range w.Domains {
		for _, layer := range d.Disks[0].Chain {
			if layer.Problem != "" {
				seen.Unread = append(seen.Unread, layer.Problem)
			}
		}
	}
	return o.Save()
}
