package libvirthost

import (
	"errors"
	"fmt"
	"os"

	"github.com/virt-rotate/virt-rotate/internal/snapcache"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"golang.org/x/sys/unix"
)

// A told is what is kept in a file of the snapshots of a domain: what nameSnapshot made of their XML, which may hold
// passwords and is not kept. A layer is named once; snapshots have its number.
type told struct {
	Layers    []toldLayer    `json:"layers"`
	Snapshots []toldSnapshot `json:"snapshots"`
}

type toldLayer struct {
	Path   string       `json:"path"`
	Volume *host.Volume `json:"volume,omitempty"`
}

type toldSnapshot struct {
	Name        string     `json:"name"`
	Parent      string     `json:"parent,omitempty"`
	Description string     `json:"description,omitempty"`
	Seconds     int64      `json:"time"`
	Internal    bool       `json:"internal,omitempty"`
	Memory      string     `json:"memory,omitempty"`
	Disks       []toldDisk `json:"disks"`
}

type toldDisk struct {
	Target   string `json:"target"`
	Internal bool   `json:"internal,omitempty"`
	Overlay  []int  `json:"overlay,omitempty"` // one, or none
	Reverted string `json:"reverted,omitempty"`
	State    []int  `json:"state,omitempty"`
	Format   string `json:"format,omitempty"`
	Cut      bool   `json:"cut,omitempty"`
	Inactive []int  `json:"inactive,omitempty"`
}

// openTold opens what earlier looks were told by the same process, if this host is where the connection leads to;
// nil if not, or where that cannot be known.
func openTold(file, uri string, version uint32) *snapcache.Cache[told] {
	if file == "" {
		return nil
	}
	k, err := keeperOf(uri)
	if err != nil {
		return nil
	}
	program, err := programLife()
	if err != nil {
		return nil
	}
	return snapcache.Open[told](file, snapcache.Source{Dir: k.snapshots, Life: fmt.Sprintf("%s; libvirt %d; %s", k.life, version, program)})
}

// programLife tells this virt-rotate from others: another one may read texts otherwise.
func programLife() (string, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/exe", &st); err != nil {
		return "", err
	}
	return fmt.Sprintf("program %d %d %d %d %d", st.Dev, st.Ino, st.Size, st.Mtim.Nano(), os.Geteuid()), nil
}

// A teller makes a told out of named snapshots.
type teller struct {
	told
	layers map[namedKey]int
}

type namedKey struct {
	path    string
	volume  host.Volume
	volumes bool
}

func tell(snapshots []*namedSnapshot) told {
	t := teller{layers: map[namedKey]int{}}
	for _, s := range snapshots {
		ts := toldSnapshot{s.name, s.parent, s.description, s.seconds, s.internal, s.memory, nil}
		for i := range s.disks {
			d := &s.disks[i]
			td := toldDisk{Target: d.target, Internal: d.internal, Reverted: d.reverted, State: t.numbers(d.state), Format: d.format, Cut: d.cut, Inactive: t.numbers(d.inactive)}
			if d.external {
				td.Overlay = t.numbers([]namedLayer{d.overlay})
			}
			ts.Disks = append(ts.Disks, td)
		}
		t.Snapshots = append(t.Snapshots, ts)
	}
	return t.told
}

func (t *teller) numbers(layers []namedLayer) (numbers []int) {
	for _, l := range layers {
		key := namedKey{path: l.path}
		if l.volume != nil {
			key.volume, key.volumes = *l.volume, true
		}
		n, known := t.layers[key]
		if !known {
			n = len(t.Layers)
			t.layers[key] = n
			t.Layers = append(t.Layers, toldLayer{l.path, l.volume})
		}
		numbers = append(numbers, n)
	}
	return numbers
}

// errTold says that a told is not one of ours.
var errTold = errors.New("what is remembered of the snapshots makes no sense")

// snapshots are those that were told, by name.
func (t *told) snapshots() (map[string]*namedSnapshot, error) {
	named := make(map[string]*namedSnapshot, len(t.Snapshots))
	var errs []error
	for i := range t.Snapshots {
		ts := &t.Snapshots[i]
		s := &namedSnapshot{ts.Name, ts.Parent, ts.Description, ts.Seconds, ts.Internal, ts.Memory, nil}
		for k := range ts.Disks {
			d, err := t.disk(&ts.Disks[k])
			errs = append(errs, err)
			s.disks = append(s.disks, d)
		}
		named[s.name] = s
	}
	return named, errors.Join(errs...)
}

func (t *told) disk(td *toldDisk) (d namedDisk, err error) {
	d = namedDisk{target: td.Target, internal: td.Internal, external: len(td.Overlay) == 1, reverted: td.Reverted, format: td.Format, cut: td.Cut}
	var overlay []namedLayer
	for numbers, layers := range map[*[]int]*[]namedLayer{&td.Overlay: &overlay, &td.State: &d.state, &td.Inactive: &d.inactive} {
		for _, n := range *numbers {
			if n < 0 || n >= len(t.Layers) {
				return d, errTold
			}
			*layers = append(*layers, namedLayer{t.Layers[n].Path, t.Layers[n].Volume})
		}
	}
	if d.external {
		d.overlay = overlay[0]
	}
	return d, nil
}

// addTo adds the snapshots of these names to d; it adds none where one was not told of.
func (t *told) addTo(d *host.Domain, names []string, current string, v *volumes) bool {
	named, err := t.snapshots()
	if err != nil {
		return false
	}
	for _, name := range names {
		if named[name] == nil {
			return false
		}
	}
	for _, name := range names {
		named[name].addTo(d, current, v)
	}
	return true
}
