package rotate

import (
	"context"
	"errors"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
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
}

// Guests are asked for snapshots, and to stop.
type Guests interface {
	// Snapshot takes a disk-only external snapshot of a running domain, all disks or none.
	Snapshot(ctx context.Context, domain string, spec SnapshotSpec) error
	// Thaw thaws the guest's file systems; thawed ones are no error.
	Thaw(ctx context.Context, domain string) error
	// Active tells whether a process runs the domain, or is just being started to.
	Active(ctx context.Context, domain string) (bool, error)
	// Shutdown asks the guest to shut down; with force it does not ask.
	Shutdown(ctx context.Context, domain string, force bool) error
}

// ErrOutrun says that a guest writes faster than its active layer can be copied.
var ErrOutrun = errors.New("the guest writes faster than the copy of its active layer follows")

// ErrNotStarted says that QEMU has refused to begin a merge: as a rule, a process has an
// image open that it would have to lock.
var ErrNotStarted = errors.New("QEMU does not begin the merge")

// State is a domain's state in libvirt's words.
type State string

// The states that matter here; a domain in any other live state is not touched.
const (
	Running State = "running"
	Paused  State = "paused"
	ShutOff State = "shut off"
)

// Live tells whether a QEMU process runs the domain.
func (s State) Live() bool { return s != ShutOff && s != "" }

// A Domain is what was seen of one libvirt domain.
type Domain struct {
	Name, UUID  string
	State       State
	Transient   bool // has no persistent configuration
	ManagedSave bool
	Agent       bool // a guest agent is connected
	IOError     bool // paused because a disk is full or broken
	UEFI        bool // has NVRAM, which no disk snapshot holds
	AppArmor    bool // is confined by an AppArmor profile that may deny merges
	Checkpoints int
	Disks       []Disk
	Snapshots   []Snapshot // parents before children
	Branches    []Disk     // chains of states that no disk has in its own
	Unknown     []string   // what its configurations name that cannot be told to be a file, in words
	Elsewhere   []string   // further files that its configurations name: disks that it has only after a restart, a saved state's disks
	Problem     string     // why the domain could not be read in full
	Faults      []*Fault   // panics while it was read
}

// A Disk is one disk of a domain.
type Disk struct {
	Target    string // vda
	Kind      string // file, block, network, volume, …: libvirt's disk type
	Device    string // disk, cdrom, floppy, lun
	ReadOnly  bool
	Shareable bool
	Transient bool
	Encrypted bool
	Chain     []Layer  // what the domain uses now, base first, active layer last
	Inactive  []string // paths of the chain in the persistent configuration, base first; only as far as it is written there
	Job       *Job     // the block job that runs on the disk
	Problem   string   // why the chain could not be read in full
	Branch    bool     // no disk at all: the chain of a state that is on a branch
	Running   []string // paths of the chain that QEMU itself tells of, base first; asked only where libvirt may have missed the end of a merge
}

// Active returns the layer that the guest writes to; the disk has one.
func (d *Disk) Active() *Layer { return &d.Chain[len(d.Chain)-1] }

// index returns the place of path in the chain, or -1.
func (d *Disk) index(path string) int {
	for i := range d.Chain {
		if d.Chain[i].Path == path {
			return i
		}
	}
	return -1
}

// A Layer is one image of a disk's chain.
type Layer struct {
	Path      string
	Format    string // as libvirt has it: never guessed
	Kind      string // file or block; anything else cannot be merged
	Index     uint   // libvirt's number for it in a running domain, as in vda[3]
	Allocated int64  // bytes on disk
	Size      int64  // virtual size in bytes; 0 = unknown

	// Of a file of this host:
	ID        vfs.ID
	FS        uint64 // which file system it is on
	Mode      uint32 // permission bits
	Links     uint64 // names that the file has
	Symlink   bool   // Path is a symbolic link to it
	Image     *chain.Image
	BackingID vfs.ID // the file that Image.Backing names; zero when there is none
	Problem   string // why the file or its header could not be read
	// Use is what QEMU's image locks tell of it; asked only where no guest of this host
	// has it open.
	Use vfs.Use
}

// Key is the layer's identity in a forest.
func (l *Layer) Key() string { return layerKey(l.ID, l.Path) }

// A Job is a block job on a disk.
type Job struct {
	Type       string // commit, active-commit, pull, copy, backup, …
	Done, Size int64  // libvirt's figures; their unit differs between versions
	Ready      bool   // an active commit that can be pivoted
	Target     string // the image that an active commit or a copy writes to; "" when unknown
}

// A Snapshot is what libvirt keeps about one.
type Snapshot struct {
	Name, Parent string
	Time         time.Time
	Description  string
	Current      bool
	Internal     bool // its state is inside the images
	Disks        []SnapshotDisk
}

// A SnapshotDisk is one disk in a snapshot's metadata.
type SnapshotDisk struct {
	Target   string
	Overlay  string   // the file that came into being with the snapshot; "" when the disk was left out
	State    []string // the disk's chain in the stored configuration, base first: its last is the layer with the state
	Inactive []string // the same in the stored persistent configuration, where there is one
	Cut      bool     // State goes on below its first entry: the metadata does not list the whole chain

	stored string `json:",omitempty"` // of a plan: what the metadata says that Overlay is; "" for Overlay itself
}

// A SnapshotSpec says what snapshot to take.
type SnapshotSpec struct {
	Name, Description string
	Quiesce           bool
	Overlays          map[string]string // target → overlay path, which is an empty file already
	Exclude           []string          // targets of the disks that are left out
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
}
