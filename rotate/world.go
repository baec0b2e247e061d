package rotate

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A World is everything that a decision rests on, as it was at one moment.
type World struct {
	Remote  bool // no file facts: the host is another one
	Domains []Domain
	Forest  *chain.Forest
	Spaces  map[uint64]vfs.Space // by file system
	Dirs    map[string]uint64    // directory → its file system
	Intents map[string]*Intent   // by domain UUID
	// Released lists, by domain UUID, the overlays whose snapshots virt-rotate
	// has dropped and which are still in a chain.
	Released map[string][]intentFile
	Tips     map[string][]tip        // by domain UUID, last layers of disks that were taken out
	Useless  map[string][]intentFile // by domain UUID, images of snapshots that were given up
	Lost     map[string][]Destroyed  // by domain UUID, snapshots that were seen to be lost
	Written  map[string]time.Time    // by path, when each layer of the domains, and each image that builds on one, was last written to
	Left     map[string]LeftFile     // what is at each path that an intent names, the bases of its merges included
	Strange  []Strange               // images in the directories that could not be read
	Pools    []string                // directories of the host's storage pools
	// CannotClone says, by directory of a layer, why files there cannot share extents;
	// "" where they can.
	CannotClone map[string]string
	// LocalLocks says, by directory of a layer, why locks on files there do not reach other
	// hosts; "" where they do, or where no other host is.
	LocalLocks  map[string]string
	Taken       map[string]bool     // paths in the directories concerned at which something is
	InChains    map[string][]string // by path, which domains name it in a chain: two at most
	Places      map[string]Place    // what paths led to that decisions ask for
	StateChains map[string]Disk     // by path of a state that is in no disk's chain, what it builds on
	Faults      []*Fault            // panics while domains were looked at
	looking     bool                // it is not complete yet
	TooWide     []string            // storages that hold too much to be searched for users of layers
}

// A LeftFile is what was found at a path that an intent names.
type LeftFile struct {
	ID        vfs.ID
	Allocated int64
	ModTime   time.Time
	Blank     bool // holds no guest data
	NoHeader  bool // begins with zeros, as an overlay of ours does until its header is written, which comes last
	InUse     bool // a process has it open with QEMU's image locks
	Written   bool // a process may write to it, by those locks
}

// Domain returns the domain of that name, or nil.
func (w *World) Domain(name string) *Domain {
	for i := range w.Domains {
		if w.Domains[i].Name == name {
			return &w.Domains[i]
		}
	}
	return nil
}

// An Observer looks at a host.
type Observer struct {
	Host     Looker
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

	cloneMu  sync.Mutex        // guards what follows
	canClone map[string]string // what clones said of a directory
	wide     map[string]bool   // storages that hold too much to be searched

	loadOnce sync.Once
	headers  *headerCache
}

// Probes are what an Observer asks the system. Nil, or zero, is the real thing; tests have
// others.
type Probes struct {
	SpaceAt        func(dir string) (vfs.Space, error) // nil: vfs.SpaceAt
	StorageOf      func(dir string) string             // nil: the top of the file system, unless that is the system's
	CanClone       func(dir string) error              // nil: vfs.CanClone
	LocksStayLocal func(path string) (string, error)   // nil: vfs.LocksStayLocal
	Settle         time.Duration                       // how long libvirt is given to notice the end of a job; 0: SettleTime
}

// cache is what is remembered of images' headers.
func (o *Observer) cache() *headerCache {
	o.loadOnce.Do(func() { o.headers = loadHeaders(o.StateDir) })
	return o.headers
}

// Save keeps what is remembered of images' headers for the next run.
func (o *Observer) Save() error { return o.cache().save() }

// Observe looks at all domains of the host, their files, and the images in
// the directories where those lie. It changes nothing.
func (o *Observer) Observe(ctx context.Context) (*World, error) {
	return o.settled(ctx, func() (*World, error) {
		domains, err := o.Host.Domains(ctx)
		if err != nil {
			return nil, err
		}
		pools, err := o.Host.Pools(ctx)
		if err != nil {
			return nil, err
		}
		return o.assemble(ctx, domains, domains, pools, vfs.AskUse)
	})
}

// Again looks at one domain afresh and takes the others from w.
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
		return o.assemble(ctx, domains, fresh, w.Pools, vfs.InUse)
	})
}

// newWorld returns a world with nothing in it.
func newWorld() *World {
	return &World{
		Forest: chain.NewForest(), Spaces: map[uint64]vfs.Space{}, Dirs: map[string]uint64{},
		Released: map[string][]intentFile{}, Useless: map[string][]intentFile{}, Tips: map[string][]tip{}, Lost: map[string][]Destroyed{},
		Written: map[string]time.Time{}, Left: map[string]LeftFile{}, Taken: map[string]bool{}, CannotClone: map[string]string{}, LocalLocks: map[string]string{},
		InChains: map[string][]string{}, Places: map[string]Place{}, StateChains: map[string]Disk{}, looking: true,
	}
}

// assemble completes what the host said of the domains with what their files
// say. Only the files of fresh, which come first, are looked at; the others carry
// their facts already. A look at the whole host only asks for locks, so as to disturb no
// guest of another host; before anything is done with a domain its locks are tried.
func (o *Observer) assemble(ctx context.Context, domains, fresh []Domain, pools []string, ask func(string) (vfs.Use, error)) (*World, error) {
	w := newWorld()
	w.Remote, w.Domains, w.Pools = o.Host.Remote(), domains, pools
	var err error
	if w.Intents, err = newJournal(o.StateDir).load(); err != nil {
		return nil, err
	}
	for i := range domains {
		w.Faults = append(w.Faults, domains[i].Faults...)
		domains[i].Snapshots = inOrderTaken(domains[i].Snapshots)
		w.recall(o.StateDir, domains[i].UUID)
	}
	look := newLooker(o)
	look.ask = ask
	if !w.Remote {
		for i := range fresh {
			w.faulty(&domains[i], Contain(domains[i].Name, func() { o.lookBehind(w, &domains[i]) }))
		}
		look.domains(w, fresh)
		o.tryClones(w)
		o.leftFiles(w)
	}
	w.plant()
	if !w.Remote {
		o.stateChains(w, len(fresh))
		look.neighbours(w, o)
	}
	for i := range fresh {
		w.learn(&domains[i])
	}
	w.noteChains()
	w.looking = false
	return w, ctx.Err()
}

// lookBehind finds what the domain's snapshots have beside the chains of its disks.
func (o *Observer) lookBehind(w *World, d *Domain) {
	followGrafts(d, w.Intents[d.UUID])
	d.Branches = o.branches(d, w.Intents[d.UUID])
}

// tryClones finds out where files can share extents. What it once found does not change.
func (o *Observer) tryClones(w *World) {
	o.cloneMu.Lock()
	defer o.cloneMu.Unlock()
	if o.canClone == nil {
		o.canClone = map[string]string{}
	}
	try := o.Probes.CanClone
	if try == nil {
		try = vfs.CanClone
	}
	for dir := range w.Dirs {
		why, known := o.canClone[dir]
		if !known {
			err := try(dir)
			if errors.Is(err, syscall.ENOSPC) {
				continue // not known; that no space is left is told by those who need some
			}
			if err != nil {
				why = err.Error()
			}
			o.canClone[dir] = why
		}
		w.CannotClone[dir] = why
	}
}

// leftFiles looks at the files that intents name.
func (o *Observer) leftFiles(w *World) {
	for _, in := range w.Intents {
		for _, f := range in.files() {
			o.leftFile(w, f.Path)
		}
		for _, m := range in.Merges {
			o.leftFile(w, m.Base)
		}
	}
	for _, layers := range w.Released {
		for _, f := range layers {
			o.leftFile(w, f.Path)
		}
	}
}

func (o *Observer) leftFile(w *World, path string) {
	info, err := vfs.Lstat(path)
	if err != nil {
		return
	}
	left := LeftFile{ID: info.ID, Allocated: info.Allocated, ModTime: info.ModTime, InUse: true}
	if use, err := vfs.InUse(path); err == nil {
		left.InUse, left.Written = use.Read || use.Write, use.Write
	}
	image, err := o.Inspect(path, "qcow2")
	left.Blank = info.Size == 0 || err == nil && image.Blank
	left.NoHeader = beginsWithZeros(path)
	w.Left[path] = left
}

// beginsWithZeros tells whether a file's first sector is there and has only zeros.
func beginsWithZeros(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var sector [512]byte
	_, err = f.ReadAt(sector[:], 0)
	return err == nil && sector == [512]byte{}
}

// files lists every file that the intent names.
func (in *Intent) files() []intentFile {
	files := append(slices.Clone(in.Created), in.Garbage...)
	for _, m := range in.Merges {
		files = append(files, m.Gone...)
		if m.Graft != nil {
			files = append(files, m.Graft.Next...)
		}
	}
	return files
}

// leftover tells whether an intent names exactly the file at path.
func (w *World) leftover(path string) bool {
	for _, in := range w.Intents {
		for _, f := range in.files() {
			if f.Path == path && (f.ID == vfs.ID{} || f.ID == w.Left[path].ID) {
				return true
			}
		}
	}
	return false
}
