package host

import (
	"context"
	"errors"
)

// Host is what rotation asks of a hypervisor; internal/libvirthost implements it. Whoever
// needs less asks for one of its parts.
type Host interface {
	Looker
	Merger
	Records
	Guests
}

// A Looker tells what is on a host; it changes nothing.
type Looker interface {
	// Remote tells whether the host's files are out of this process's reach.
	Remote() bool
	// Domains returns the named domains, or all of them when none is named.
	Domains(ctx context.Context, names ...string) ([]Domain, error)
	// Pools returns the directories of the active storage pools.
	Pools(ctx context.Context) ([]string, error)
	// QEMUChains asks the QEMU of a running domain, past libvirt, for the chains
	// of its disks: target → paths, base first. libvirt notes that in its log.
	QEMUChains(ctx context.Context, domain string) (map[string][]string, error)
}

// A Merger moves data between the layers of running guests.
type Merger interface {
	// Merge commits or pulls layers of a running domain's disk, or waits for such a
	// job that runs already. When it returns nil the job is over and, for an
	// active layer, pivoted; the caller still has to look at the chain. An error that is
	// ErrNotStarted says that no byte was moved.
	Merge(ctx context.Context, m MergeSpec, progress func(done, total int64)) error
	// Copy starts a shallow copy of the active layer of a running domain's disk onto
	// another image, which has a chain of its own, and waits until that follows the
	// guest's writes. After an error, which is ErrOutrun where the guest writes faster
	// than can be copied, the guest is on the chain that it had.
	Copy(ctx context.Context, c CopySpec, progress func(done, total int64)) error
	// Pivot moves the guest onto the copy that is ready. The caller has to look.
	Pivot(ctx context.Context, domain, disk string) error
	// EndCopy ends the copy that runs on a disk, if one does: the guest stays where it is.
	EndCopy(ctx context.Context, domain, disk string) error
}

// Records are what libvirt has on record: the metadata of snapshots, and what domains start
// from.
type Records interface {
	// DropMetadata makes libvirt forget a snapshot; no file is touched.
	DropMetadata(ctx context.Context, domain, snapshot string) error
	// KeepMetadata reads the metadata of all snapshots; putBack makes libvirt have it again.
	KeepMetadata(ctx context.Context, domain string) (putBack func() error, err error)
	// Redefine writes into a snapshot's metadata where its disks are now.
	Redefine(ctx context.Context, domain string, fix SnapshotFix) error
	// Rehearse tells whether Redefine could keep all that is in the metadata
	// of these snapshots. It changes nothing.
	Rehearse(ctx context.Context, domain string, snapshots []string) error
	// Reconfigure writes into the persistent configuration what chains, base
	// first, the disks with these targets have when the domain starts.
	Reconfigure(ctx context.Context, domain string, chains map[string][]Layer) error
	// Reinstate makes the configuration that a snapshot has on record the persistent
	// one, with these chains; undo takes that back.
	Reinstate(ctx context.Context, domain, snapshot string, chains map[string][]Layer) (undo func() error, err error)
	// RehearseConfig tells whether Reconfigure could keep all that is in the domain's
	// persistent configuration, or Reinstate what is in that of the snapshot, where one
	// is named. It changes nothing.
	RehearseConfig(ctx context.Context, domain, snapshot string) error
	// Externals returns what the metadata of snapshots is and what it is to be once their
	// states are layers. It changes nothing; what could not be kept is an error.
	Externals(ctx context.Context, domain string, snapshots []External) ([]Replacement, error)
	// Replace forgets the metadata of a snapshot and writes it as it is to be.
	Replace(ctx context.Context, domain string, r Replacement) error
}

// Guests are asked for snapshots, and to stop.
type Guests interface {
	// Snapshot takes a disk-only external snapshot of a running domain, all disks or none.
	Snapshot(ctx context.Context, domain string, spec SnapshotSpec) error
	// SnapshotWithMemory takes one of a running domain that has its memory, too, of the moment of the disks.
	// After an error the guest runs if it ran before; the file may hold anything.
	SnapshotWithMemory(ctx context.Context, domain string, spec SnapshotSpec, tell MemoryEvents) error
	// GoOn lets a domain that is off go on from the memory in the file, on these chains, base first; other
	// disks are as they were. The file stays. After an error the domain is off.
	GoOn(ctx context.Context, domain, memory string, chains map[string][]Layer) error
	// RehearseGoOn tells whether the file can be read, is the domain's, and whether all that is in
	// its configuration could be kept. It changes nothing.
	RehearseGoOn(ctx context.Context, domain, memory string) error
	// Thaw thaws the guest's file systems; thawed ones are no error.
	Thaw(ctx context.Context, domain string) error
	// Active tells whether a process runs the domain, or is just being started to.
	Active(ctx context.Context, domain string) (bool, error)
	// Shutdown asks the guest to shut down; with force it does not ask.
	Shutdown(ctx context.Context, domain string, force bool) error
	// Start lets a guest run; one that runs is no error.
	Start(ctx context.Context, domain string) error
	// Resume lets a guest go on that somebody has paused; one that is not paused is no error.
	Resume(ctx context.Context, domain string) error
}

// ErrOutrun says that a guest writes faster than its active layer can be copied.
var ErrOutrun = errors.New("the guest writes faster than the copy of its active layer follows")

// ErrNotStarted says that QEMU has refused to begin a merge: as a rule, a process has an
// image open that it would have to lock.
var ErrNotStarted = errors.New("QEMU does not begin the merge")

// A SnapshotSpec says what snapshot to take.
type SnapshotSpec struct {
	Name, Description string
	Quiesce           bool
	Overlays          map[string]string // target → overlay path, which is an empty file already
	Exclude           []string          // targets of the disks that are left out
	Firmware          string            `json:",omitempty"` // the file for the state of the guest's firmware; "" for none
	Memory            *MemorySpec       `json:",omitempty"` // nil: the disks only
}

// A MergeSpec says what to merge: the layers above Base up to Top go into Base; of
// a pull, those from Base on up to Top go into Top.
type MergeSpec struct {
	Domain, Disk string
	Top, Base    Layer
	Active       bool  // Top is the active layer: commit, then pivot
	Pull         bool  // data moves up; on a running guest Top is the active layer
	Below        Layer // what Top builds on after a pull; without a path: on nothing
	Adopt        bool  // such a job of an earlier run is there already
	Relative     bool  // the layer above Top names its backing file relatively
	Bandwidth    int64 // bytes per second; 0 = no limit
	Bytes        int64 // bytes in the layers that go, for the progress

	// Pausing is called before the guest is paused for a moment: it may stay so if this
	// process ends in that moment. nil: nobody wants to know.
	Pausing func() error `json:"-"`
}

// A CopySpec says onto what image the active layer of a disk is to be copied.
type CopySpec struct {
	Domain, Disk string
	To, Format   string
	Bandwidth    int64 // bytes per second; 0 = no limit
	Bytes        int64 // in the active layer, for the progress
}

// A SnapshotFix says how a snapshot's metadata must read.
type SnapshotFix struct {
	Snapshot string
	Chains   map[string][]Layer // target → the chain of its state, base first
	Overlays map[string]string  // target → the file that is to count as the one that came with the snapshot
	Parent   *string            // the snapshot that it descends from, "" for none; nil leaves that as it is
	Current  bool               // new snapshots are to descend from it

	Description string // "" leaves it as it is
}
