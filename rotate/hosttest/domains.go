package hosttest

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
	"github.com/virt-rotate/virt-rotate/internal/tidy"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// Blocks is what is in an image, or what a guest reads: block → value.
type Blocks = map[int]int

// An Image is the content of a simulated image. It is JSON in a real file,
// so that deletion, hard links and replacement have their natural effect.
type Image struct {
	Format        string
	Size          int64
	Backing       string `json:",omitempty"`
	BackingFormat string `json:",omitempty"`
	Blocks        Blocks
	Internal      int     `json:",omitempty"` // how many internal snapshots, where it does not matter which
	States        []State `json:",omitempty"` // internal snapshots, in the order of their dates
	Encrypted     bool    `json:",omitempty"`
	DataFile      bool    `json:",omitempty"`
	Corrupt       bool    `json:",omitempty"`
}

// A Host simulates a libvirt host over real files in a temporary directory.
type Host struct {
	Dir string

	// Event is called before and after the effect of each call and of each
	// step of a job. It may return an error, or end the goroutine.
	Event func(what string) error
	// Space overrides what the file system of a directory has.
	Space func(dir string) (vfs.Space, error)

	Mu            sync.Mutex // guards all below
	Guests        []*Domain
	Jobs          map[string]*Job
	Pictures      map[string]Blocks // images of no domain → what they must read
	Writes        *rand.Rand        // writes of the running guests; nil: none
	Written       int               // the last value that a guest wrote
	Now           time.Time
	Merging       map[uint64]int // merges that run, by file system
	MostAtOnce    map[uint64]int
	Thawed        int
	EngineRefuses error
	PoolDirs      []string
	Starting      bool // a process is being started for every domain
	IsRemote      bool
	Locked        func(host.MergeSpec) bool // somebody else has an image of the merge open
	CannotClone   error
	CopyFails     error
	PivotFails    error
	Move          Move
	Qemu          map[string][]string // what QEMU says its chains are; nil: it may not be asked
}

// A Domain is a domain of the host. Its Disks and Snapshots are what
// libvirt keeps; want and states are what guests and backups must read.
type Domain struct {
	host.Domain
	Cut          bool            // the XML lists the active layer only
	Config       string          // the snapshot whose configuration it has; "" for its own
	Obeys        bool            // the guest shuts down when asked
	DoesNotStart bool            // when asked to
	Immovable    error           // why QEMU does not let its memory be saved
	Forgets      bool            // it does not go on from its memory
	WentOn       string          // the file with the memory from which it went on last
	Mute         bool            // the agent does not answer
	BeyondUs     bool            // the snapshots' metadata cannot be redefined
	Oddities     string          // "configuration", or a snapshot whose configuration cannot be written back
	Deleted      map[string]bool // overlays that libvirt's own revert has deleted
	Want         map[string]Blocks
	States       map[string]map[string]Blocks // snapshot → target → content
}

// A Job is a block commit.
type Job struct {
	base, top string
	active    bool
	pull      bool   // into top, of the layers from base on
	copyTo    string // it is a copy of the active layer, top, to this image
	todo      []int  // blocks still to be copied
	data      Blocks
}

const Size = 1 << 30 // bytes, of every disk

// Hour returns n o'clock of the day on which the tests play.
func Hour(n int) time.Time { return time.Date(2026, 1, 1, n, 0, 0, 0, time.UTC) }

func New(t *testing.T) *Host {
	t.Helper()
	h := &Host{
		Dir: tidy.InMemory(t), Event: func(string) error { return nil }, Jobs: map[string]*Job{},
		Pictures: map[string]Blocks{}, Now: Hour(12),
		Merging: map[uint64]int{}, MostAtOnce: map[uint64]int{}, CannotClone: errors.New("nothing can be cloned here"),
	}
	for _, d := range []string{"img", "fs2", "far", "state"} {
		Must(os.Mkdir(filepath.Join(h.Dir, d), 0o755))
	}
	h.Space = func(dir string) (vfs.Space, error) {
		s := vfs.Space{FS: 1, Total: 100 << 30, Free: 50 << 30}
		if strings.HasPrefix(dir, filepath.Join(h.Dir, "fs2")) {
			s.FS = 2
		}
		if _, err := os.Stat(dir); err != nil {
			return vfs.Space{}, err
		}
		return s, nil
	}
	return h
}

// Must is for what cannot fail in a simulation.
func Must(err error) {
	if err != nil {
		panic(err)
	}
}

// Img returns the path of an image; names without a directory are in img.
func (h *Host) Img(name string) string {
	if !strings.Contains(name, "/") {
		name = "img/" + name
	}
	return filepath.Join(h.Dir, name)
}

func (h *Host) Store(path string, i Image) {
	data, err := json.Marshal(i)
	Must(err)
	Must(os.WriteFile(path, data, 0o600))
}

func (h *Host) Load(path string) Image {
	data, err := os.ReadFile(path)
	Must(err)
	var i Image
	if err := json.Unmarshal(data, &i); err != nil {
		panic(fmt.Sprintf("%s: %v", path, err))
	}
	return i
}

// Change changes an image in place.
func (h *Host) Change(path string, do func(*Image)) {
	i := h.Load(path)
	do(&i)
	h.Store(path, i)
}

// Read returns what a guest on the layer would see.
func (h *Host) Read(path string) Blocks {
	i := h.Load(path)
	all := Blocks{}
	if i.Backing != "" {
		all = h.Read(resolve(path, i.Backing))
	}
	maps.Copy(all, i.Blocks)
	return all
}

// Walk returns the chain that the headers form, base first.
func (h *Host) Walk(path string) []string {
	i := h.Load(path)
	if i.Backing == "" {
		return []string{path}
	}
	return append(h.Walk(resolve(path, i.Backing)), path)
}

func resolve(path, backing string) string {
	if filepath.IsAbs(backing) {
		return backing
	}
	return filepath.Join(filepath.Dir(path), backing)
}

// Inspect is the chain.Inspector of the host's files.
func (h *Host) Inspect(path, format string) (chain.Image, error) {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	data, err := os.ReadFile(path)
	if err != nil {
		return chain.Image{}, err
	}
	if format == "raw" || (len(data) == 0 || strings.HasSuffix(path, host.FirmwareSuffix) || strings.HasSuffix(path, host.MemorySuffix)) && format == "" {
		return chain.Image{Format: "raw", VirtualSize: Size}, nil
	}
	var i Image
	if err := json.Unmarshal(data, &i); err != nil {
		return chain.Image{}, fmt.Errorf("%s: malformed header", path)
	}
	if i.Format == "raw" {
		return chain.Image{Format: "raw", VirtualSize: i.Size}, nil
	}
	return chain.Image{
		Format: i.Format, VirtualSize: i.Size, Backing: i.Backing, BackingFormat: i.BackingFormat,
		Snapshots: i.Internal + len(i.States), Encrypted: i.Encrypted, DataFile: i.DataFile, Corrupt: i.Corrupt, Blank: len(i.Blocks) == 0,
	}, nil
}

// Clock moves on by a millisecond whenever somebody looks at it.
func (h *Host) Clock() time.Time {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	h.Now = h.Now.Add(time.Millisecond)
	return h.Now
}

// Add adds a running domain.
func (h *Host) Add(name string) *Domain {
	d := &Domain{
		Domain: host.Domain{Name: name, UUID: "uuid-of-" + name, State: host.Running},
		Want:   map[string]Blocks{}, States: map[string]map[string]Blocks{}, Deleted: map[string]bool{},
	}
	h.Guests = append(h.Guests, d)
	return d
}

// Disk gives the domain a disk on a new image, or on images that are there
// already, base first, which form a chain.
func (h *Host) Disk(d *Domain, target string, images ...string) {
	disk := host.Disk{Target: target, Kind: "file", Device: "disk"}
	for _, name := range images {
		path := h.Img(name)
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			h.Create(name, disk.Chain)
		}
		disk.Chain = append(disk.Chain, host.Layer{Path: path, Format: h.Load(path).Format, Kind: "file"})
	}
	disk.Inactive = host.Paths(disk.Chain)
	d.Disks = append(d.Disks, disk)
	d.Want[target] = h.Read(disk.Active().Path)
}

// Create makes an image with a block of its own on the last of chain.
func (h *Host) Create(name string, below []host.Layer) {
	h.Written++
	i := Image{Format: "qcow2", Size: Size, Blocks: Blocks{h.Written % 16: h.Written}}
	if n := len(below); n > 0 {
		i.Backing, i.BackingFormat = below[n-1].Path, below[n-1].Format
	}
	if strings.HasSuffix(name, ".raw") {
		i.Format = "raw"
	}
	h.Store(h.Img(name), i)
}

// Picture makes an image that no domain uses on an image that is there.
func (h *Host) Picture(name, backing string) {
	h.Create(name, []host.Layer{{Path: h.Img(backing), Format: h.Load(h.Img(backing)).Format}})
	h.Pictures[h.Img(name)] = h.Read(h.Img(name))
}

// Write lets the guest write a new value into a block.
func (h *Host) Write(d *Domain, target string, block int) {
	h.Written++
	d.Want[target][block] = h.Written
	disk := host.DiskOf(&d.Domain, target)
	h.Change(disk.Active().Path, func(i *Image) { i.Blocks[block] = h.Written })
	if j := h.Jobs[d.Name+"/"+target]; j != nil && j.copyTo != "" {
		h.Change(j.copyTo, func(i *Image) { i.Blocks[block] = h.Written })
	}
}

// Name is the name of the snapshot that the policy p takes at n o'clock.
func Name(n int) string { return "p-" + Hour(n).Format(host.Stamp) }

// Take lets virt-rotate have taken snapshots at these hours, of the targets or of all disks,
// with a write of the guest after each.
func (h *Host) Take(d *Domain, hours []int, targets ...string) {
	for _, n := range hours {
		h.Freeze(d, Name(n), host.Mark{Policy: "p"}.String(), Hour(n), targets...)
	}
}

// Foreign lets somebody else have taken a snapshot.
func (h *Host) Foreign(d *Domain, name string, n int) {
	h.Freeze(d, name, "before the upgrade", Hour(n))
}

func (h *Host) Freeze(d *Domain, name, description string, at time.Time, targets ...string) {
	spec := host.SnapshotSpec{Name: name, Description: description, Overlays: map[string]string{}}
	for i := range d.Disks {
		disk := &d.Disks[i]
		if len(targets) > 0 && !slices.Contains(targets, disk.Target) || disk.ReadOnly {
			continue
		}
		spec.Overlays[disk.Target] = filepath.Join(filepath.Dir(disk.Active().Path), host.Stem(disk)+"."+name+".qcow2")
	}
	h.Grow(d, spec, at)
	for _, target := range slices.Sorted(maps.Keys(spec.Overlays)) {
		h.Write(d, target, h.Written%16)
	}
}

// Grow does what taking a snapshot does.
func (h *Host) Grow(d *Domain, spec host.SnapshotSpec, at time.Time) {
	snap := host.Snapshot{Name: spec.Name, Description: spec.Description, Time: at.Truncate(time.Second), Current: true}
	if spec.Memory != nil {
		snap.Memory = spec.Memory.Path
	}
	for i := range d.Snapshots {
		if d.Snapshots[i].Current {
			snap.Parent, d.Snapshots[i].Current = d.Snapshots[i].Name, false
			for k := range d.Snapshots[i].Disks {
				d.Snapshots[i].Disks[k].Reverted = ""
			}
		}
	}
	d.States[spec.Name] = map[string]Blocks{}
	for i := range d.Disks {
		disk := &d.Disks[i]
		sd := host.SnapshotDisk{Target: disk.Target, State: host.Paths(disk.Chain), Inactive: slices.Clone(disk.Inactive)}
		if path, ok := spec.Overlays[disk.Target]; ok {
			sd.Overlay = path
			d.States[spec.Name][disk.Target] = h.Read(disk.Active().Path)
			below := disk.Active()
			h.Store(path, Image{Format: "qcow2", Size: Size, Backing: below.Path, BackingFormat: below.Format, Blocks: Blocks{}})
			disk.Chain = append(disk.Chain, host.Layer{Path: path, Format: "qcow2", Kind: "file"})
			disk.Inactive = host.Paths(disk.Chain)
		}
		snap.Disks = append(snap.Disks, sd)
	}
	d.Snapshots = append(d.Snapshots, snap)
}

// Cloning tells whether files can be cloned.
func (h *Host) Cloning(string) error { return h.CannotClone }
