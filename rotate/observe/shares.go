package observe

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/rotate/coord"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// SilentAfter is how old what a host has told may be, unless the Observer says otherwise: one
// that is silent for longer may use anything.
const SilentAfter = 7 * 24 * time.Hour

// A Share is a storage that other hosts have, too, and what they have told of it.
type Share struct {
	Dir     string     `json:"dir"`
	View    coord.View `json:"view"`
	Problem string     `json:"problem,omitempty"` // why it is not known who uses what there
	Remedy  string     `json:"remedy,omitempty"`
	Locks   bool       `json:"locks,omitempty"` // the problem is that locks do not reach other hosts

	// Unheard says that there is another problem beside that: what hosts use is not known, block devices included.
	Unheard bool `json:"unheard,omitempty"`

	// Asked says that no host of it starts a guest without asking the others: locks need not reach them.
	Asked bool `json:"asked,omitempty"`
}

// shares asks the storages of the layers what other hosts have told, and keeps what these use.
func (o *Observer) shares(ctx context.Context, w *World) {
	if o.Fleet == nil || w.Remote {
		return
	}
	o.devices(w)
	at := map[coord.Storage]int{}
	for _, s := range o.storages(w) {
		at[s] = len(w.Shares)
		w.Shares = append(w.Shares, o.share(ctx, s))
		w.keepOfOthers(s, &w.Shares[at[s]].View)
	}
	w.each(func(d *host.Domain) {
		for _, path := range append(layersOf(d), w.freeOf(d)...) {
			for _, s := range o.Fleet.On(w.dirOf(d, path)) {
				if i, ok := at[s]; ok && !slices.Contains(w.OnShares[path], i) {
					w.OnShares[path] = append(w.OnShares[path], i)
				}
			}
			w.onDevice(d, path)
		}
		w.judge(at, d)
	})
}

// storages are those that layers of this host lie on, and those of the administrator's word.
func (o *Observer) storages(w *World) []coord.Storage {
	dirs := map[string]bool{}
	for _, l := range w.Forest.Layers() {
		if filepath.IsAbs(l.Path) {
			dirs[filepath.Dir(l.Path)] = true
		}
	}
	w.each(func(d *host.Domain) {
		for _, path := range layersOf(d) {
			dirs[w.dirOf(d, path)] = true
		}
	})
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		o.Fleet.On(dir)
	}
	if len(w.Devices) > 0 {
		o.Fleet.OnDevices()
	}
	return o.Fleet.All()
}

// layersOf are the paths that a domain has for its layers: those that a run may merge or delete.
func layersOf(d *host.Domain) []string {
	paths := d.Named()
	for i := range d.Branches {
		paths = append(paths, host.Paths(d.Branches[i].Chain)...)
	}
	return slices.DeleteFunc(paths, func(path string) bool { return !filepath.IsAbs(path) })
}

// freeOf are files of the domain that are on record as free, or about to be.
func (w *World) freeOf(d *host.Domain) (paths []string) {
	files := w.Released[d.UUID]
	if in := w.Intents[d.UUID]; in != nil {
		files = append(slices.Clone(files), in.Files()...)
	}
	for _, f := range files {
		paths = append(paths, f.Path)
	}
	return paths
}

// dirOf is the directory that the layer really lies in.
func (w *World) dirOf(d *host.Domain, path string) string {
	for i := range d.Disks {
		if k := d.Disks[i].Index(path); k >= 0 && d.Disks[i].Chain[k].Symlink {
			if to, err := filepath.EvalSymlinks(path); err == nil {
				return filepath.Dir(to)
			}
		}
	}
	return filepath.Dir(path)
}

// share reads what is on record of a storage.
func (o *Observer) share(ctx context.Context, s coord.Storage) Share {
	v, err := s.View(ctx)
	found := Share{Dir: s.Dir(), View: v, Asked: err == nil && v.Asking()}
	o.noteAsking(s.Dir(), found.Asked)
	if why := o.untold(s.Dir()); why != "" {
		found.Problem, found.Remedy = "this host could not tell the others what it uses: "+why, "see to that, and run virt-rotate again"
	}
	if err != nil {
		found.Problem, found.Remedy = err.Error(), "see that it can be read; docs/fleet.md tells what is in there"
		return found
	}
	for i := range v.Peers {
		found.heard(&v.Peers[i], cmp.Or(o.SilentAfter, SilentAfter), o.now())
	}
	if !found.Asked {
		found.locks()
	}
	return found
}

// locks tells of locks that were found not to reach another host.
func (s *Share) locks() {
	heard := s.Problem == ""
	remedy := "mount it with locks on all hosts (NFS: without nolock and local_lock; of FUSE file systems, one that hands locks on)" + s.OrAsk()
	for i := range s.View.Peers {
		if p := &s.View.Peers[i]; p.Locks == coord.LocksStay && !s.Locks {
			s.Locks, s.Problem, s.Remedy = true, "host "+p.Name+" did not see the locks of a host that was at work there", remedy
		}
	}
	if s.View.Locks == coord.LocksStay {
		s.Locks, s.Problem, s.Remedy = true, "a host was at work there, and this one did not see its locks", remedy
	}
	s.Unheard = s.Locks && !heard
}

// OrAsk is the other remedy where locks do not reach other hosts: that no guest starts without asking them, which takes a
// store; "" without one.
func (s *Share) OrAsk() string {
	if s.View.By == "" {
		return ""
	}
	var not []string
	if !s.View.Mine.Asks {
		not = append(not, "this host")
	}
	for i := range s.View.Peers {
		if p := &s.View.Peers[i]; !p.Told.Asks {
			not = append(not, cmp.Or(p.Name, p.ID))
		}
	}
	return "; or have guests ask before they start: virt-rotate fleet hook, and a run, on " + strings.Join(not, ", ")
}

// aHead is how far the clock of another host may be ahead of ours.
const ahead = 10 * time.Minute

// heard tells of a host of which it is not known what it uses.
func (s *Share) heard(p *coord.Peer, within time.Duration, now time.Time) {
	if s.Problem != "" {
		return
	}
	name := cmp.Or(p.Name, p.ID)
	forget := "virt-rotate fleet forget " + host.Quoted(cmp.Or(p.Name, p.ID))
	again := "let virt-rotate run on " + name + "; if that host is gone for good: " + forget
	switch age := now.Sub(p.When); {
	case p.Problem != "":
		s.Problem, s.Remedy = "what host "+name+" has told cannot be read: "+p.Problem, again
	case p.ID == coord.Signpost && len(p.Told.Doubts) > 0:
		s.Problem = p.Told.Doubts[0] + ", and this host does not"
		s.Remedy = "set [coordination] here as it is there; if none of them does so any more: " + forget
	case len(p.Told.Doubts) > 0:
		s.Problem = "host " + name + " cannot tell all that it uses: " + p.Told.Doubts[0]
		s.Remedy = "see to that on host " + name
	case inDoubt(p) != nil:
		s.Problem = fmt.Sprintf("host %s has started guest %s, and not all that it uses is known: %s", name, host.Quoted(inDoubt(p).Name), inDoubt(p).Doubt)
		s.Remedy = "let virt-rotate run on " + name + " a quarter of an hour after that"
	case age > within:
		s.Problem = fmt.Sprintf("host %s has not told since %s what it uses", name, p.When.Local().Format("2006-01-02 15:04"))
		s.Remedy = again
	case age < -ahead:
		s.Problem = fmt.Sprintf("host %s has told what it uses at a time that is yet to come, %s: one of the clocks is wrong", name, p.When.Local().Format("2006-01-02 15:04"))
		s.Remedy = "set the clocks of the hosts, and " + again
	}
}

// inDoubt is a start of which is not known what it uses; nil for none.
func inDoubt(p *coord.Peer) *coord.Start {
	for i := range p.Told.Starts {
		if p.Told.Starts[i].Doubt != "" {
			return &p.Told.Starts[i]
		}
	}
	return nil
}

// keepOfOthers keeps the layers that guests of other hosts use, but for guests that are this
// host's: what others have told of those does not count any more.
func (w *World) keepOfOthers(s coord.Storage, v *coord.View) {
	used := newUsed(w, s, v)
	if used.empty() {
		return
	}
	keep := func(key, path string) {
		if named, ok := w.named(s, placed{key, path}); ok {
			for _, use := range used.by(named) {
				w.useOfOthers(w.Forest.Add(key, path), use)
			}
		}
	}
	for _, l := range w.Forest.Layers() {
		keep(l.Key, l.Path)
	}
	for path, left := range w.Left { // what is to be deleted is in no chain any more
		keep(host.LayerKey(left.ID, path), path)
	}
}

// useOfOthers notes that a guest of another host writes to the layer, or builds on it, as one
// of this host would.
func (w *World) useOfOthers(l *chain.Layer, u use) {
	if u.active {
		l.Keep(u.who)
		return
	}
	above := w.Forest.Add(u.who+" on "+l.Key, u.who)
	above.Keep(u.who)
	_ = w.Forest.Link(above, l) // it is new, or was linked so already
}

// A use of a layer is that of a guest, or of an image, on another host.
type use struct {
	who    string
	active bool
}

// used is what other hosts use, by inode and by name.
type used struct {
	inodes  map[uint64][]use
	paths   map[string][]use
	names   map[string][]use // of layers whose place on the storage is not known
	devices map[string][]use
}

func newUsed(w *World, s coord.Storage, v *coord.View) *used {
	u := &used{map[uint64][]use{}, map[string][]use{}, map[string][]use{}, map[string][]use{}}
	for i := range v.Peers {
		p := &v.Peers[i]
		for k := range p.Told.Guests {
			if g := &p.Told.Guests[k]; !w.owns(s, v, g.UUID) {
				u.add(p, g.Layers, userOf(p, g))
			}
		}
		for k := range p.Told.Starts {
			if start := &p.Told.Starts[k]; !w.tookOver(s, v, p, start.UUID) {
				u.add(p, start.Layers, starterOf(p, start))
			}
		}
		u.add(p, p.Told.Images, "an image of host "+p.Name)
	}
	return u
}

// tookOver tells whether the guest is this host's since a time after that at which the other one had it: what that has started was told
// before.
func (w *World) tookOver(s coord.Storage, v *coord.View, p *coord.Peer, uuid string) bool {
	mine, theirs := v.Mine.Guest(uuid), p.Told.Guest(uuid)
	return mine != nil && (theirs == nil && mine.Epoch > 1 || theirs != nil && theirs.Epoch < mine.Epoch) && w.owns(s, v, uuid)
}

func starterOf(p *coord.Peer, start *coord.Start) string {
	return fmt.Sprintf("guest %s, which host %s has started,", start.Name, p.Name)
}

// owns tells whether the guest is this host's. One that is only defined here, as by what a migration has left
// behind, uses on its own host what no definition here may tell of.
func (w *World) owns(s coord.Storage, v *coord.View, uuid string) bool {
	i := slices.IndexFunc(w.Domains, func(d host.Domain) bool { return d.UUID == uuid })
	if i < 0 {
		return false
	}
	g, on := w.guestOn(s, &w.Domains[i])
	return on && coord.Judge(&g, v).Epoch > 0
}

func userOf(p *coord.Peer, g *coord.Guest) string {
	return fmt.Sprintf("guest %s of host %s", g.Name, p.Name)
}

// Itself tells whether who uses a layer is the domain, as another host has it, or had.
func (w *World) Itself(d *host.Domain, who string) bool {
	for i := range w.Shares {
		peers := w.Shares[i].View.Peers
		for k := range peers {
			p := &peers[k]
			if g := p.Told.Guest(d.UUID); g != nil && userOf(p, g) == who {
				return true
			}
			if slices.ContainsFunc(p.Told.Starts, func(s coord.Start) bool { return s.UUID == d.UUID && starterOf(p, &s) == who }) {
				return true
			}
		}
	}
	return false
}

func (u *used) empty() bool {
	return len(u.inodes)+len(u.paths)+len(u.names)+len(u.devices) == 0
}

func (u *used) add(p *coord.Peer, layers []coord.Layer, who string) {
	for _, l := range layers {
		who := use{who, l.Active}
		if l.Elsewhere {
			continue
		}
		if l.Device != "" {
			u.devices[l.Device] = append(u.devices[l.Device], who)
			continue
		}
		if p.Inodes && l.Ino != 0 {
			u.inodes[l.Ino] = append(u.inodes[l.Ino], who)
		} else if filepath.IsAbs(l.Path) {
			u.names[filepath.Base(l.Path)] = append(u.names[filepath.Base(l.Path)], who)
		}
		if !filepath.IsAbs(l.Path) {
			u.paths[l.Path] = append(u.paths[l.Path], who)
		}
	}
}

func (u *used) by(l coord.Layer) []use {
	all := slices.Clone(u.devices[l.Device])
	if l.Device == "" {
		all = slices.Concat(u.inodes[l.Ino], u.paths[l.Path], u.names[filepath.Base(l.Path)])
	}
	slices.SortFunc(all, func(a, b use) int { return strings.Compare(a.who, b.who) })
	return slices.Compact(all)
}

// judge finds out whose the domain is, on all storages that its layers lie on.
func (w *World) judge(at map[coord.Storage]int, d *host.Domain) {
	for _, s := range slices.SortedFunc(maps.Keys(at), func(a, b coord.Storage) int { return at[a] - at[b] }) {
		g, on := w.guestOn(s, d)
		if !on {
			continue
		}
		v := coord.Judge(&g, &w.Shares[at[s]].View)
		if was, known := w.Whose[d.UUID]; !known || was.Why == "" {
			w.Whose[d.UUID] = v
		}
	}
}
