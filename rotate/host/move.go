package host

import (
	"context"
	"slices"
)

// A Mover moves guests to other hosts. Guests are named by their UUIDs: two hosts are concerned.
type Mover interface {
	Definer
	// Texts returns the metadata of all snapshots, parents before children. It changes nothing.
	Texts(ctx context.Context, uuid string) ([]SnapshotText, error)
	// Migrate moves the guest, running or off, with its persistent configuration. The caller has to look
	// where the guest is then, whatever this returns.
	Migrate(ctx context.Context, m Migration) error
	// Far connects to another host.
	Far(ctx context.Context, uri string) (Far, error)
}

// A Definer has the metadata of snapshots written.
type Definer interface {
	// DefineSnapshots makes libvirt have those of the snapshots that it does not have, in their order.
	DefineSnapshots(ctx context.Context, uuid string, snapshots []SnapshotText) error
}

// Far is another host, as far as a guest that moves there is concerned.
type Far interface {
	Definer
	// Stand tells what the host has of that name, and of that UUID.
	Stand(ctx context.Context, name, uuid string) (Stand, error)
	Close() error
}

// A Stand is how a guest is on another host.
type Stand struct {
	Host      string // the name of the host
	Name      string // of the domain with the guest's UUID; "": there is none
	State     State
	Settled   bool     // it is persistent, and nothing is at work on it
	Snapshots []string // names
	NameTaken string   // the UUID of another domain that has the guest's name
}

// Live tells whether the guest runs there for good.
func (s *Stand) Live() bool { return s.Name != "" && s.State.Live() && s.Settled }

// A SnapshotText is the metadata of a snapshot, as text that only libvirt reads.
type SnapshotText struct {
	Name    string   `json:"name"`
	XML     string   `json:"xml"`
	Current bool     `json:"current,omitempty"`
	Files   []string `json:"files"` // that it names for its state
}

// A Migration says which guest is to go where, and how.
type Migration struct {
	UUID, To string
	Offline  bool
	Options  []string // further ones of virsh migrate
}

// Files returns the files that the snapshot's metadata names.
func (s *Snapshot) Files() []string {
	all := s.Kept()
	for i := range s.Disks {
		sd := &s.Disks[i]
		all = append(append(append(all, sd.Overlay, sd.Reverted), sd.State...), sd.Inactive...)
	}
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(path string) bool { return path == "" })
}
