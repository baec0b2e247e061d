package coord

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"golang.org/x/sys/unix"
)

const (
	// defaultWait is how long the table of hosts is waited for: each holds it for moments.
	defaultWait = 20 * time.Second
	// repeatAfter is how long a failure to read counts for further looks.
	repeatAfter = 10 * time.Second
	// beat is how often a host that is at work counts on.
	beat = time.Second
)

// A Fleet knows the storages that this host has together with others. The zero values of what
// is not named are the real things.
type Fleet struct {
	StateDir string
	Shared   []string // directories of storages, by the administrator's word
	Name     string   // of this host; "": its host name

	// Visible lists the disks, volume groups and the like that this host sees, by the names that all hosts have for them;
	// nil: what the kernel tells.
	Visible func() []string

	// Asks tells whether no guest starts here unless the others were asked (Begin); nil: some do.
	Asks func() bool

	Slots int // how many hosts may merge on a storage at the same time; 0: 3

	// Store is where hosts tell each other, if that is not the storage itself.
	Store Store

	Wait  time.Duration                    // for the table of hosts
	Beat  time.Duration                    // how often a host that is at work counts
	Kind  func(dir string) (string, error) // of a file system that others can have; nil: vfs.SharedKind
	Clock func() time.Time
	Crash func(place string) // tests let a host die here
	Blind bool               // tests: locks stay on this host

	mu      sync.Mutex // guards what follows
	on      map[string][]Storage
	shares  map[string]*share
	order   []Storage
	stateMu sync.Mutex // for STATE/host.json
}

func (f *Fleet) boundary(place string) {
	if f.Crash != nil {
		f.Crash(place)
	}
}

func (f *Fleet) now() time.Time {
	if f.Clock != nil {
		return f.Clock()
	}
	return time.Now()
}

// mostName is how much of a host's name is told, in bytes.
const mostName = 64

func (f *Fleet) name() string {
	name := f.Name
	if name == "" {
		name, _ = os.Hostname()
	}
	return cmp.Or(strings.ToValidUTF8(name[:min(len(name), mostName)], "?"), "localhost")
}

// HostName is what the others call this host.
func (f *Fleet) HostName() string {
	if f == nil {
		f = &Fleet{}
	}
	return f.name()
}

// mount names a mount of this start of the host: what was found out of its locks holds no longer.
func (f *Fleet) mount(dev uint64) string {
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return fmt.Sprintf("%s/%d", strings.TrimSpace(string(boot)), dev)
}

// On returns the storages of other hosts that dir is on; none for one of this host alone. There
// is more than one where hosts have mounted it at different levels, and each tells in a
// directory of its own.
func (f *Fleet) On(dir string) []Storage {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.on == nil {
		f.on, f.shares = map[string][]Storage{}, map[string]*share{}
	}
	if found, known := f.on[dir]; known {
		return found
	}
	var found []Storage
	for _, top := range f.placesOf(dir) {
		found = append(found, f.share(top))
	}
	f.on[dir] = found
	return found
}

// All returns the storages that were asked for, those of the administrator's word and, with a store, those on which this host has
// told something.
func (f *Fleet) All() []Storage {
	if f == nil {
		return nil
	}
	for _, dir := range append(slices.Clone(f.Shared), f.told()...) {
		f.On(filepath.Clean(dir))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.order)
}

// told are the directories of storages on which this host has told by a store. What cannot be read is found as others are.
func (f *Fleet) told() []string {
	if f.Store == nil {
		return nil
	}
	f.stateMu.Lock()
	defer f.stateMu.Unlock()
	state, err := loadState(f.StateDir)
	if err != nil {
		return nil
	}
	return state.Dirs
}

// Missing are directories on which this host has told by a store, and that lead to no storage now.
func (f *Fleet) Missing() []string {
	return slices.DeleteFunc(f.told(), func(dir string) bool {
		return slices.ContainsFunc(f.On(dir), func(s Storage) bool { return s.Dir() == dir })
	})
}

func (f *Fleet) share(top string) *share {
	s := f.shares[top]
	if s == nil {
		s = newShare(top, f)
		f.shares[top] = s
		f.order = append(f.order, s)
	}
	return s
}

// placesOf lists the directories in which hosts tell each other what they use of dir: the
// storage's own, and those below it in which somebody has told already.
func (f *Fleet) placesOf(dir string) []string {
	actual, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil // it is not there: nothing on it is merged
	}
	top := f.top(actual)
	if top == "" {
		return nil
	}
	var places []string
	way := wayTo(top, actual)
	for _, d := range way {
		if _, err := vfs.LstatFresh(filepath.Join(d, Subdirectory)); err == nil {
			places = append(places, d)
		}
	}
	if len(places) == 0 {
		places = append(places, firstWritable(way))
	}
	return places
}

// top is the storage's directory: the outermost that the administrator has named, or the topmost
// of a file system that other hosts can have; "" for one of this host alone.
func (f *Fleet) top(dir string) string {
	named := ""
	for _, s := range f.Shared {
		if actual, err := filepath.EvalSymlinks(s); err == nil && within(actual, dir) && (named == "" || within(actual, named)) {
			named = actual
		}
	}
	if named != "" {
		return named
	}
	kind := f.Kind
	if kind == nil {
		kind = vfs.SharedKind
	}
	if k, err := kind(dir); err != nil || k == "" {
		return ""
	}
	return topOf(dir)
}

// topOf is the topmost directory of dir's file system that is not one of the system's.
func topOf(dir string) string {
	on, err := deviceOf(dir)
	top := dir
	for d := dir; err == nil && d != "/"; {
		d = filepath.Dir(d)
		if dev, failed := deviceOf(d); failed != nil || dev != on {
			break
		}
		if !slices.Contains([]string{"/", "/home", "/mnt", "/opt", "/srv", "/usr", "/var", "/var/lib"}, d) {
			top = d
		}
	}
	return top
}

// wayTo lists the directories from top down to dir.
func wayTo(top, dir string) []string {
	way := []string{top}
	rest, err := filepath.Rel(top, dir)
	if err != nil || rest == "." {
		return way
	}
	for _, name := range strings.Split(rest, "/") {
		way = append(way, filepath.Join(way[len(way)-1], name))
	}
	return way
}

// firstWritable is where this host can tell something: as a rule, the first.
func firstWritable(way []string) string {
	for _, d := range way {
		if unix.Access(d, unix.W_OK) == nil {
			return d
		}
	}
	return way[0]
}

// checkOwner refuses a directory of somebody else. What a server makes of root is not known,
// so root believes whoever owns what it can write to.
func (f *Fleet) checkOwner(path string, fi fs.FileInfo) error {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if me := os.Geteuid(); ok && me != 0 && st.Uid != 0 && int(st.Uid) != me {
		return fmt.Errorf("%s: it belongs to user %d", path, st.Uid)
	}
	return nil
}

func deviceOf(dir string) (uint64, error) {
	fi, err := os.Stat(dir)
	if err != nil {
		return 0, err
	}
	return fi.Sys().(*syscall.Stat_t).Dev, nil
}

func within(dir, path string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// defaultSlots is how many hosts merge at the same time unless Slots says otherwise.
const defaultSlots = 3

// Take waits for a slot on each storage that dir is on. They are taken in one order by all
// hosts: from the top of the file system down.
func (f *Fleet) Take(ctx context.Context, dir string) (Hold, error) {
	var all holds
	for _, s := range f.On(dir) {
		h, err := s.Take(ctx, cmp.Or(f.Slots, defaultSlots))
		if err != nil {
			all.Release()
			return nil, err
		}
		all = append(all, h)
	}
	return all, nil
}

// Holds are slots on several storages.
type holds []Hold

// Release gives all of them back, the last one first.
func (h holds) Release() {
	for _, one := range slices.Backward(h) {
		one.Release()
	}
}

// Err tells of those that are lost.
func (h holds) Err() error {
	var lost error
	for _, one := range h {
		lost = errors.Join(lost, one.Err())
	}
	return lost
}

// Enter shows the others on all storages that this host is at work. Where that cannot be done,
// it is told by what is asked of the storage next.
func (f *Fleet) Enter(ctx context.Context) (leave func()) {
	var all []func()
	for _, s := range f.All() {
		if l, err := s.Enter(ctx); err == nil {
			all = append(all, l)
		}
	}
	return func() {
		for _, l := range all {
			l()
		}
	}
}

// ID is this host's identity, under which it tells the others; "" before it has told anything.
func (f *Fleet) ID() (string, error) {
	f.stateMu.Lock()
	defer f.stateMu.Unlock()
	state, err := loadState(f.StateDir)
	if err != nil {
		return "", err
	}
	return state.ID, nil
}
