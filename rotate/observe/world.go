package observe

import (
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/blockid"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/coord"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// WithoutGuest is the world in which the guest has been shut down. One in a state in which
// it cannot simply be is left as it is, and one whose disk has a job has it still: to
// stop it would cost somebody a backup.
func (w *World) WithoutGuest(domain string) *World {
	off := *w
	off.Domains = slices.Clone(w.Domains)
	d := off.Domain(domain)
	switch d.State {
	case host.Running, host.Paused:
		d.State, d.IOError, d.Agent = host.ShutOff, false, false
	}
	return &off
}

// A World is everything that a decision rests on, as it was at one moment.
type World struct {
	Remote  bool      // no file facts: the host is another one
	Asks    bool      `json:",omitempty"` // before the host was looked at, no guest started on it without asking the others
	Looked  time.Time `json:"-"`          // when that began, of the domains that were looked at last of all
	Domains []host.Domain
	Forest  *chain.Forest
	Spaces  map[uint64]vfs.Space       // by file system
	Dirs    map[string]uint64          // directory → its file system
	Intents map[string]*journal.Intent // by domain UUID
	// Released lists, by domain UUID, the overlays whose snapshots virt-rotate
	// has dropped and which are still in a chain.
	Released map[string][]journal.File
	Tips     map[string][]journal.Tip       // by domain UUID, last layers of disks that were taken out
	Useless  map[string][]journal.File      // by domain UUID, images of snapshots that were given up
	Lost     map[string][]journal.Destroyed // by domain UUID, snapshots that were seen to be lost
	Written  map[string]time.Time           // by path, when each layer of the domains, and each image that builds on one, was last written to
	Left     map[string]journal.LeftFile    // what is at each path that an intent names, the bases of its merges included
	Strange  []Strange                      // images in the directories that could not be read
	Pools    []string                       // directories of the host's storage pools
	// CannotClone says, by directory of a layer, why files there cannot share extents;
	// "" where they can.
	CannotClone map[string]string
	// LocalLocks says, by directory of a layer, why locks on files there do not reach other
	// hosts; "" where they do, or where no other host is.
	LocalLocks  map[string]string
	Taken       map[string]bool      // paths in the directories concerned at which something is
	InChains    map[string][]string  // by path, which domains name it in a chain: two at most
	Places      map[string]Place     // what paths led to that decisions ask for
	StateChains map[string]host.Disk // by path of a state that is in no disk's chain, what it builds on
	Faults      []*host.Fault        // panics while domains were looked at
	Readers     []journal.Reader     // programs of ours that read layers, on record in the state directory
	looking     bool                 // it is not complete yet
	// Shares are storages that other hosts have, too; OnShares says which of them a layer lies
	// on, by path, and Whose, by UUID, whose the domains are of which layers lie there.
	Shares   []Share                  `json:",omitempty"`
	OnShares map[string][]int         `json:",omitempty"`
	Whose    map[string]coord.Verdict `json:",omitempty"`

	// Devices are what all hosts call the block devices among the layers, by key and by the paths that domains have for
	// them.
	Devices map[string]blockid.Device `json:",omitempty"`

	// Moves are migrations that are not finished, by the UUID of the domain, which may be gone from here.
	Moves map[string]*journal.Move `json:",omitempty"`

	TooWide []string // storages that hold too much to be searched for users of layers
}

// Domain returns the domain of that name, or nil.
func (w *World) Domain(name string) *host.Domain {
	for i := range w.Domains {
		if w.Domains[i].Name == name {
			return &w.Domains[i]
		}
	}
	return nil
}

// newWorld returns a world with nothing in it.
func newWorld() *World {
	return &World{
		Forest: chain.NewForest(), Spaces: map[uint64]vfs.Space{}, Dirs: map[string]uint64{},
		Released: map[string][]journal.File{}, Useless: map[string][]journal.File{}, Tips: map[string][]journal.Tip{}, Lost: map[string][]journal.Destroyed{},
		Written: map[string]time.Time{}, Left: map[string]journal.LeftFile{}, Taken: map[string]bool{}, CannotClone: map[string]string{}, LocalLocks: map[string]string{},
		InChains: map[string][]string{}, Places: map[string]Place{}, StateChains: map[string]host.Disk{}, looking: true,
		OnShares: map[string][]int{}, Whose: map[string]coord.Verdict{},
	}
}

// Names lists the domains of the host.
func (w *World) Names() []string {
	names := make([]string, len(w.Domains))
	for i := range w.Domains {
		names[i] = w.Domains[i].Name
	}
	return names
}
