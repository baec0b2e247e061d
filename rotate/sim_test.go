package rotate

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// blocks is what is in an image, or what a guest reads: block → value.
type blocks = map[int]int

// A simImage is the content of a simulated image. It is JSON in a real file,
// so that deletion, hard links and replacement have their natural effect.
type simImage struct {
	Format        string
	Size          int64
	Backing       string `json:",omitempty"`
	BackingFormat string `json:",omitempty"`
	Blocks        blocks
	Internal      int  `json:",omitempty"`
	Encrypted     bool `json:",omitempty"`
	DataFile      bool `json:",omitempty"`
	Corrupt       bool `json:",omitempty"`
}

// A simHost simulates a libvirt host over real files in a temporary directory.
type simHost struct {
	dir string

	// event is called before and after the effect of each call and of each
	// step of a job. It may return an error, or end the goroutine.
	event func(what string) error
	// space overrides what the file system of a directory has.
	space func(dir string) (vfs.Space, error)

	mu            sync.Mutex // guards all below
	domains       []*simDomain
	jobs          map[string]*simJob
	pictures      map[string]blocks // images of no domain → what they must read
	guests        *rand.Rand        // writes of the running guests; nil: none
	written       int               // the last value that a guest wrote
	now           time.Time
	merging       map[uint64]int // merges that run, by file system
	mostAtOnce    map[uint64]int
	thawed        int
	engineRefuses error
	pools         []string
	starting      bool // a process is being started for every domain
	remote        bool
	locked        func(host.MergeSpec) bool // somebody else has an image of the merge open
	cannotClone   error
	copyFails     error
	pivotFails    error
	qemu          map[string][]string // what QEMU says its chains are; nil: it may not be asked
}

// A simDomain is a domain of the host. Its Disks and Snapshots are what
// libvirt keeps; want and states are what guests and backups must read.
type simDomain struct {
	host.Domain
	cut      bool   // the XML lists the active layer only
	config   string // the snapshot whose configuration it has; "" for its own
	obeys    bool   // the guest shuts down when asked
	mute     bool   // the agent does not answer
	beyondUs bool   // the snapshots' metadata cannot be redefined
	oddities string // "configuration", or a snapshot whose configuration cannot be written back
	want     map[string]blocks
	states   map[string]map[string]blocks // snapshot → target → content
}

// A simJob is a block commit.
type simJob struct {
	base, top string
	active    bool
	pull      bool   // into top, of the layers from base on
	copyTo    string // it is a copy of the active layer, top, to this image
	todo      []int  // blocks still to be copied
	data      blocks
}

const simSize = 1 << 30 // bytes, of every disk

// hour returns n o'clock of the day on which the tests play.
func hour(n int) time.Time { return time.Date(2026, 1, 1, n, 0, 0, 0, time.UTC) }

func newSim(t *testing.T) *simHost {
	t.Helper()
	h := &simHost{
		dir: tempDir(t), event: func(string) error { return nil }, jobs: map[string]*simJob{},
		pictures: map[string]blocks{}, now: hour(12),
		merging: map[uint64]int{}, mostAtOnce: map[uint64]int{}, cannotClone: errors.New("nothing can be cloned here"),
	}
	for _, d := range []string{"img", "fs2", "far", "state"} {
		must(os.Mkdir(filepath.Join(h.dir, d), 0o755))
	}
	h.space = func(dir string) (vfs.Space, error) {
		s := vfs.Space{FS: 1, Total: 100 << 30, Free: 50 << 30}
		if strings.HasPrefix(dir, filepath.Join(h.dir, "fs2")) {
			s.FS = 2
		}
		if _, err := os.Stat(dir); err != nil {
			return vfs.Space{}, err
		}
		return s, nil
	}
	return h
}

// tempDir is in memory where that can be had: thousands of runs sync files.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "virt-rotate-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { must(os.RemoveAll(dir)) })
	return dir
}

// must is for what cannot fail in a simulation.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// img returns the path of an image; names without a directory are in img.
func (h *simHost) img(name string) string {
	if !strings.Contains(name, "/") {
		name = "img/" + name
	}
	return filepath.Join(h.dir, name)
}

func (h *simHost) store(path string, i simImage) {
	data, err := json.Marshal(i)
	must(err)
	must(os.WriteFile(path, data, 0o600))
}

func (h *simHost) load(path string) simImage {
	data, err := os.ReadFile(path)
	must(err)
	var i simImage
	if err := json.Unmarshal(data, &i); err != nil {
		panic(fmt.Sprintf("%s: %v", path, err))
	}
	return i
}

// change changes an image in place.
func (h *simHost) change(path string, do func(*simImage)) {
	i := h.load(path)
	do(&i)
	h.store(path, i)
}

// read returns what a guest on the layer would see.
func (h *simHost) read(path string) blocks {
	i := h.load(path)
	all := blocks{}
	if i.Backing != "" {
		all = h.read(resolve(path, i.Backing))
	}
	maps.Copy(all, i.Blocks)
	return all
}

// walk returns the chain that the headers form, base first.
func (h *simHost) walk(path string) []string {
	i := h.load(path)
	if i.Backing == "" {
		return []string{path}
	}
	return append(h.walk(resolve(path, i.Backing)), path)
}

func resolve(path, backing string) string {
	if filepath.IsAbs(backing) {
		return backing
	}
	return filepath.Join(filepath.Dir(path), backing)
}

// inspect is the chain.Inspector of the host's files.
func (h *simHost) inspect(path, format string) (chain.Image, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	data, err := os.ReadFile(path)
	if err != nil {
		return chain.Image{}, err
	}
	if format == "raw" || len(data) == 0 && format == "" {
		return chain.Image{Format: "raw", VirtualSize: simSize}, nil
	}
	var i simImage
	if err := json.Unmarshal(data, &i); err != nil {
		return chain.Image{}, fmt.Errorf("%s: malformed header", path)
	}
	if i.Format == "raw" {
		return chain.Image{Format: "raw", VirtualSize: i.Size}, nil
	}
	return chain.Image{
		Format: i.Format, VirtualSize: i.Size, Backing: i.Backing, BackingFormat: i.BackingFormat,
		Snapshots: i.Internal, Encrypted: i.Encrypted, DataFile: i.DataFile, Corrupt: i.Corrupt, Blank: len(i.Blocks) == 0,
	}, nil
}

// clock moves on by a millisecond whenever somebody looks at it.
func (h *simHost) clock() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = h.now.Add(time.Millisecond)
	return h.now
}

// add adds a running domain.
func (h *simHost) add(name string) *simDomain {
	d := &simDomain{
		Domain: host.Domain{Name: name, UUID: "uuid-of-" + name, State: host.Running},
		want:   map[string]blocks{}, states: map[string]map[string]blocks{},
	}
	h.domains = append(h.domains, d)
	return d
}

// disk gives the domain a disk on a new image, or on images that are there
// already, base first, which form a chain.
func (h *simHost) disk(d *simDomain, target string, images ...string) {
	disk := host.Disk{Target: target, Kind: "file", Device: "disk"}
	for _, name := range images {
		path := h.img(name)
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			h.create(name, disk.Chain)
		}
		disk.Chain = append(disk.Chain, host.Layer{Path: path, Format: h.load(path).Format, Kind: "file"})
	}
	disk.Inactive = host.Paths(disk.Chain)
	d.Disks = append(d.Disks, disk)
	d.want[target] = h.read(disk.Active().Path)
}

// create makes an image with a block of its own on the last of chain.
func (h *simHost) create(name string, below []host.Layer) {
	h.written++
	i := simImage{Format: "qcow2", Size: simSize, Blocks: blocks{h.written % 16: h.written}}
	if n := len(below); n > 0 {
		i.Backing, i.BackingFormat = below[n-1].Path, below[n-1].Format
	}
	if strings.HasSuffix(name, ".raw") {
		i.Format = "raw"
	}
	h.store(h.img(name), i)
}

// picture makes an image that no domain uses on an image that is there.
func (h *simHost) picture(name, backing string) {
	h.create(name, []host.Layer{{Path: h.img(backing), Format: h.load(h.img(backing)).Format}})
	h.pictures[h.img(name)] = h.read(h.img(name))
}

// write lets the guest write a new value into a block.
func (h *simHost) write(d *simDomain, target string, block int) {
	h.written++
	d.want[target][block] = h.written
	disk := host.DiskOf(&d.Domain, target)
	h.change(disk.Active().Path, func(i *simImage) { i.Blocks[block] = h.written })
	if j := h.jobs[d.Name+"/"+target]; j != nil && j.copyTo != "" {
		h.change(j.copyTo, func(i *simImage) { i.Blocks[block] = h.written })
	}
}

// name is the name of the snapshot that the policy p takes at n o'clock.
func name(n int) string { return "p-" + hour(n).Format(host.Stamp) }

// take lets virt-rotate have taken snapshots at these hours, of the targets or of all disks,
// with a write of the guest after each.
func (h *simHost) take(d *simDomain, hours []int, targets ...string) {
	for _, n := range hours {
		h.freeze(d, name(n), host.Mark("p"), hour(n), targets...)
	}
}

// foreign lets somebody else have taken a snapshot.
func (h *simHost) foreign(d *simDomain, name string, n int) {
	h.freeze(d, name, "before the upgrade", hour(n))
}

func (h *simHost) freeze(d *simDomain, name, description string, at time.Time, targets ...string) {
	spec := host.SnapshotSpec{Name: name, Description: description, Overlays: map[string]string{}}
	for i := range d.Disks {
		disk := &d.Disks[i]
		if len(targets) > 0 && !slices.Contains(targets, disk.Target) || disk.ReadOnly {
			continue
		}
		spec.Overlays[disk.Target] = filepath.Join(filepath.Dir(disk.Active().Path), host.Stem(disk)+"."+name+".qcow2")
	}
	h.grow(d, spec, at)
	for _, target := range slices.Sorted(maps.Keys(spec.Overlays)) {
		h.write(d, target, h.written%16)
	}
}

// grow does what taking a snapshot does.
func (h *simHost) grow(d *simDomain, spec host.SnapshotSpec, at time.Time) {
	snap := host.Snapshot{Name: spec.Name, Description: spec.Description, Time: at.Truncate(time.Second), Current: true}
	for i := range d.Snapshots {
		if d.Snapshots[i].Current {
			snap.Parent, d.Snapshots[i].Current = d.Snapshots[i].Name, false
		}
	}
	d.states[spec.Name] = map[string]blocks{}
	for i := range d.Disks {
		disk := &d.Disks[i]
		sd := host.SnapshotDisk{Target: disk.Target, State: host.Paths(disk.Chain), Inactive: slices.Clone(disk.Inactive)}
		if path, ok := spec.Overlays[disk.Target]; ok {
			sd.Overlay = path
			d.states[spec.Name][disk.Target] = h.read(disk.Active().Path)
			below := disk.Active()
			h.store(path, simImage{Format: "qcow2", Size: simSize, Backing: below.Path, BackingFormat: below.Format, Blocks: blocks{}})
			disk.Chain = append(disk.Chain, host.Layer{Path: path, Format: "qcow2", Kind: "file"})
			disk.Inactive = host.Paths(disk.Chain)
		}
		snap.Disks = append(snap.Disks, sd)
	}
	d.Snapshots = append(d.Snapshots, snap)
}

// rule is the policy p, which keeps the last snapshots.
func rule(last int) *policy.Rule {
	return &policy.Rule{
		Name: "p", Every: time.Hour, Keep: policy.Keep{Last: last}, MaxChain: 30,
		Method: policy.MethodAuto, Quiesce: policy.QuiesceAuto, Offline: policy.OfflineNative,
	}
}

// rotator rotates every domain whose name does not start with "other" by rule.
func rotator(h *simHost, r *policy.Rule) *Rotator {
	return &Rotator{
		Observer: observer(h),
		Host:     h,
		Engine:   simEngine{h},
		Clock:    h.clock,
		Report:   func(Event) {},
		Match: func(names []string) policy.Assignment {
			a := policy.Assignment{Rules: map[string]*policy.Rule{}}
			for _, n := range names {
				if !strings.HasPrefix(n, "other") {
					a.Rules[n] = r
				}
			}
			return a
		},
	}
}

func observer(h *simHost) *observe.Observer {
	return &observe.Observer{Host: h, Inspect: h.inspect, StateDir: filepath.Join(h.dir, "state"),
		Probes: observe.Probes{CanClone: h.cloning, Settle: time.Millisecond, SpaceAt: func(dir string) (vfs.Space, error) { return h.space(dir) }}}
}

// cloning tells whether files can be cloned.
func (h *simHost) cloning(string) error { return h.cannotClone }

// releases lets virt-rotate have dropped snapshots without merging their layers.
func releases(h *simHost, d *simDomain, which ...int) {
	var layers []journal.File
	for _, i := range slices.Backward(which) {
		for _, f := range overlaysOf(&d.Domain, &d.Snapshots[i]) {
			info, err := vfs.Stat(f.Path)
			must(err)
			layers = append(layers, journal.File{Path: f.Path, ID: info.ID})
		}
		for k := range d.Snapshots {
			if d.Snapshots[k].Parent == d.Snapshots[i].Name {
				d.Snapshots[k].Parent = d.Snapshots[i].Parent
			}
		}
		d.Snapshots = slices.Delete(d.Snapshots, i, i+1)
	}
	must(journal.SaveReleased(filepath.Join(h.dir, "state"), &d.Domain, layers))
}
