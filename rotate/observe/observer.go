package observe

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/blockid"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/coord"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// An Observer looks at a host.
type Observer struct {
	Host     host.Looker
	Inspect  chain.Inspector
	StateDir string
	Scan     []string // directories whose images count as users of their backing files
	Overlays []string // directories for overlays: looked at where they are there
	// Ignore names images that raise no doubt, by the administrator's word, and directories
	// that hold no images. An image that tells that it builds on a layer is a user all the same.
	Ignore []string

	// MostFiles is how many files a storage may hold to be searched for users of layers, all
	// of it; 0 is 50,000.
	MostFiles int
	Probes    Probes

	// Fleet knows the storages that other hosts have, too; nil: there is none. SilentAfter is how
	// old what another host has told may be; 0: SilentAfter of this package.
	Fleet       *coord.Fleet
	SilentAfter time.Duration
	Clock       func() time.Time // nil: time.Now

	cloneMu  sync.Mutex        // guards what follows
	canClone map[string]string // what clones said of a directory
	wide     map[string]bool   // storages that hold too much to be searched
	asking   map[string]bool   // storages none of whose hosts starts a guest without asking
	failed   map[string]string // storages on which this host could not tell what it uses, and why

	loadOnce sync.Once
	headers  *headerCache

	stats statCache
	lists vfs.ListCache
}

// Probes are what an Observer asks the system. Nil, or zero, is the real thing; tests have
// others.
type Probes struct {
	SpaceAt        func(dir string) (vfs.Space, error) // nil: vfs.SpaceAt
	StorageOf      func(dir string) string             // nil: the top of the file system, unless that is the system's
	Stat           func(path string) (vfs.Info, error) // of images beside the layers; nil: vfs.Stat
	CanClone       func(dir string) error              // nil: vfs.CanClone
	LocksStayLocal func(path string) (string, error)   // nil: vfs.LocksStayLocal
	Device         func(key string) blockid.Device     // of a layer's key; nil: what the kernel tells of block devices
	Settle         time.Duration                       // how long libvirt is given to notice the end of a job; 0: SettleTime
}

// cache is what is remembered of images' headers.
func (o *Observer) cache() *headerCache {
	o.loadOnce.Do(func() { o.headers = loadHeaders(o.StateDir) })
	return o.headers
}

// Forget makes the next look at the host see all images as they are then: whoever writes to
// some beside the layers calls it, as a merge that tells the images on a branch does.
func (o *Observer) Forget() { o.stats.forget() }

// Save keeps what is remembered of images' headers for the next run.
func (o *Observer) Save() error { return o.cache().save() }

// Observe looks at all domains of the host, their files, and the images in
// the directories where those lie. It changes nothing.
func (o *Observer) Observe(ctx context.Context) (*World, error) {
	return o.settled(ctx, func() (*World, error) {
		o.stats.forget()
		asks, began := o.asks(), o.now()
		domains, err := o.Host.Domains(ctx)
		if err != nil {
			return nil, err
		}
		pools, err := o.Host.Pools(ctx)
		if err != nil {
			return nil, err
		}
		w, err := o.assemble(ctx, domains, domains, pools, vfs.AskUse)
		if err == nil {
			w.Asks, w.Looked = asks, began
		}
		return w, err
	})
}

// Again looks at one domain afresh and takes the others from w. What it says of images beside
// the domain's is no older than neighbourAge; such an image that is new is always seen.
func (o *Observer) Again(ctx context.Context, w *World, name string) (*World, error) {
	return o.settled(ctx, func() (*World, error) {
		fresh, err := o.Host.Domains(ctx, name)
		if err != nil {
			return nil, err
		}
		domains := slices.Clone(fresh)
		for _, d := range w.Domains {
			if d.Name != name {
				d.Disks = slices.Clone(d.Disks) // w is shared by the runs of several domains
				domains = append(domains, d)
			}
		}
		now, err := o.assemble(ctx, domains, fresh, w.Pools, vfs.InUse)
		if err == nil {
			now.Asks, now.Looked = w.Asks, w.Looked
		}
		return now, err
	})
}

// assemble completes what the host said of the domains with what their files
// say. Only the files of fresh, which come first, are looked at; the others carry
// their facts already. A look at the whole host only asks for locks, so as to disturb no
// guest of another host; before anything is done with a domain its locks are tried.
func (o *Observer) assemble(ctx context.Context, domains, fresh []host.Domain, pools []string, ask func(string) (vfs.Use, error)) (*World, error) {
	w := newWorld()
	w.Remote, w.Domains, w.Pools = o.Host.Remote(), domains, pools
	var err error
	if w.Intents, err = journal.In(o.StateDir).Load(); err != nil {
		return nil, err
	}
	w.Readers = journal.Readers(o.StateDir)
	recorded, err := journal.OnRecord(o.StateDir)
	if err != nil {
		return nil, err
	}
	for i := range domains {
		w.Faults = append(w.Faults, domains[i].Faults...)
		domains[i].Snapshots = host.InOrderTaken(domains[i].Snapshots)
		if recorded[domains[i].UUID] {
			w.recall(o.StateDir, domains[i].UUID)
		}
	}
	look := newLooker(o)
	look.ask = ask
	if !w.Remote {
		for i := range fresh {
			w.faulty(&domains[i], host.Contain(domains[i].Name, func() { o.lookBehind(w, &domains[i]) }))
		}
		look.domains(w, fresh)
		o.tryClones(w)
		o.leftFiles(w)
	}
	w.plant()
	for i := range fresh {
		w.learn(&domains[i])
	}
	if !w.Remote {
		o.stateChains(w, len(fresh))
		look.neighbours(w, o)
		o.shares(ctx, w)
	}
	if err := o.moves(w); err != nil {
		return nil, err
	}
	w.noteChains()
	w.looking = false
	return w, ctx.Err()
}

// lookBehind finds what the domain's snapshots have beside the chains of its disks.
func (o *Observer) lookBehind(w *World, d *host.Domain) {
	findFirmware(d)
	FollowGrafts(d, w.Intents[d.UUID])
	d.Branches = o.branches(d, w.Intents[d.UUID])
}
