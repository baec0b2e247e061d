package libvirthost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/tidy"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// texts is what libvirt tells of one domain.
type texts struct {
	name                  string
	state                 host.State
	live, inactive, saved string // saved: of a managed save, "" for none
	snapshots             []string
	current               string
	transient, ioError    bool
	checkpoints           int
}

// A madeHost serves domains that were made up, through the readers of the real one.
type madeHost struct {
	host.Host // what changes a host is not to be called
	dir       string
	domains   []texts
	remote    bool
	pools     []string
}

func (h *madeHost) Remote() bool                            { return h.remote }
func (h *madeHost) Pools(context.Context) ([]string, error) { return h.pools, nil }

func (h *madeHost) Domains(_ context.Context, names ...string) ([]host.Domain, error) {
	var found []host.Domain
	for i := range h.domains {
		if len(names) == 0 || slices.Contains(names, h.domains[i].name) {
			found = append(found, h.observe(&h.domains[i]))
		}
	}
	return found, nil
}

func (h *madeHost) QEMUChains(context.Context, string) (map[string][]string, error) {
	return nil, errors.New("QEMU may not be asked")
}

// observe does with texts what Host.observe does with what libvirt answers.
func (h *madeHost) observe(x *texts) host.Domain {
	d := host.Domain{Name: x.name, State: x.state, Transient: x.transient, IOError: x.ioError, Checkpoints: x.checkpoints}
	var err error
	v := newVolumes(h.volume)
	if fault := host.Contain(x.name, func() { err = h.read(&d, x, v) }); fault != nil {
		d.Faults, err = append(d.Faults, fault), fault
	}
	if err != nil {
		d.Problem = err.Error()
		noteNames(&d, x.live, v)
	}
	v.note(&d)
	return d
}

func (h *madeHost) read(d *host.Domain, x *texts, v *volumes) error {
	errs := []error{readDomain(d, x.live, v)}
	if !x.state.Live() {
		for i := range d.Disks {
			d.Disks[i].Inactive = layerPaths(d.Disks[i].Chain)
		}
	} else if !x.transient {
		errs = append(errs, readInactive(d, x.inactive, v))
	}
	if x.saved != "" {
		d.ManagedSave = true
		errs = append(errs, readElsewhere(d, x.saved, v))
	}
	for _, text := range x.snapshots {
		_, err := addSnapshot(d, text, x.current, v)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// volume looks a volume up: there are two pools that run, two that are stopped, one of a
// network, and one that libvirt does not tell of.
func (h *madeHost) volume(v host.Volume) place {
	path := inPool("dir", h.dir, v.Name)
	if slices.Contains(soundPools, v.Pool) {
		path = inPool("dir", filepath.Join(h.dir, "../sound"), v.Name)
	}
	switch {
	case v.Pool == "sound" && exists(path):
		return place{path: path, kind: host.KindFile}
	case v.Pool == "here" && exists(path):
		return place{path: path, kind: host.KindFile}
	case v.Pool == "here":
		return place{missing: host.NoVolume, perhaps: path, why: "no volume"}
	case v.Pool == "stopped" || v.Pool == "sound-off":
		return place{missing: host.PoolStopped, perhaps: path, why: "stopped"}
	case v.Pool == "network":
		return place{missing: host.NoFile, nowhere: true, why: "no file"}
	}
	return place{missing: host.NoPool, why: "no pool"}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return path != "" && err == nil
}

// hoursOfSound are those of the sound domain's snapshots.
var hoursOfSound = []int{8, 9, 10}

// soundDomain is a domain with three snapshots whose layers are in a directory of their own.
func soundDomain(dir, pool string, state host.State) (x texts, layers []string) {
	layers = putChain(dir, "sound", hoursOfSound...)
	xml := "<domain type='kvm'><name>sound</name><uuid>5d0a4a52-7a0e-4f43-a0b5-0f10d3a3d1aa</uuid><os><type>hvm</type></os>" + element("devices", soundDisk("vda", pool, layers)) + "</domain>"
	return texts{name: "sound", state: state, live: xml, inactive: xml, current: snapshotOf(hoursOfSound[2]),
		snapshots: soundSnapshots("sound", "vda", pool, layers, hoursOfSound...)}, layers
}

// host makes up domains and their images.
func (g *gen) host() *madeHost {
	for range g.IntN(10) {
		g.image()
	}
	h := &madeHost{dir: g.dir, remote: g.in100(3), pools: pick(g, nil, []string{g.dir}, []string{"/no/such/pool"})}
	for i := range 1 + g.IntN(6) {
		h.domains = append(h.domains, g.texts(i))
	}
	return h
}

// texts makes up one domain: on a sound chain of its own, on anything, or on both.
func (g *gen) texts(i int) texts {
	x := texts{name: pick(g, "d%d", "d%d", "d%d", "with space %d", "quo'te\"%d", "é%d", "..%d", "-d%d"), state: pick(g, host.Running, host.Running, host.ShutOff, host.ShutOff, host.ShutOff,
		host.Paused, "migrating", "in shutdown", "pmsuspended", "no state"), transient: g.in100(4), checkpoints: pick(g, 0, 0, 0, 2)}
	x.name = fmt.Sprintf(x.name, i)
	x.ioError = x.state == host.Paused && g.in100(30)
	uuid := fmt.Sprintf("00000000-0000-4000-8000-%012d", i)
	own := ""
	if g.in100(60) {
		hours := []int{7, 8, 9, 10, 11}[:g.IntN(6)]
		stem := fmt.Sprintf("own%d", i)
		layers := putChain(g.dir, stem, hours...)
		g.images = append(g.images, layers...)
		pool := pick(g, "", "", "here", "here", "here", "stopped", "network", "nowhere")
		own = soundDisk("vda", pool, layers)
		x.snapshots, x.current = soundSnapshots(x.name, "vda", pool, layers, hours...), pick(g, "", snapshotOf(9))
	}
	x.live = g.changed(own, x.name, uuid, own != "" && g.in100(50))
	x.inactive = x.live
	if g.in100(30) {
		x.inactive = g.changed(own, x.name, uuid, g.in100(60))
	}
	if g.in100(6) {
		x.saved = g.changed(own, x.name, uuid, false)
	}
	for range pick(g, 0, 0, 0, 1, 2, 6) {
		name := pick(g, fmt.Sprintf("s%d", g.number()), "a/b", `quo"te`, "s p a c e", snapshotOf(g.IntN(24)), "é")
		x.snapshots = append(x.snapshots, g.snapshot(name, pick(g, "", name, "s1", "s2", "gone", snapshotOf(8)), x.live))
	}
	if len(x.snapshots) > 0 && g.in100(15) {
		k := g.IntN(len(x.snapshots))
		x.snapshots[k] = g.spoil(x.snapshots[k])
	}
	return x
}

// changed is a domain with this disk, alone or beside whatever else there is.
func (g *gen) changed(own, name, uuid string, alone bool) string {
	if alone {
		return "<domain type='kvm'>" + element("name", escaped(name)) + element("uuid", uuid) + element("devices", own+g.some(2, g.noise)) + "</domain>"
	}
	return g.spoil(g.domain(name, uuid, own))
}

// touchedBy returns the layers of the sound domain that are named by what is read of the
// host, or by images: layer → the image, or "".
func (g *gen) touchedBy(h *madeHost) map[string]string {
	by := map[string]string{}
	for path := range g.touched {
		for _, image := range g.images {
			if info, err := os.Stat(image); err == nil && info.Mode().IsRegular() {
				data, err := os.ReadFile(image)
				must(err)
				if strings.Contains(string(data), path) {
					by[path] = image
				}
			}
		}
		if slices.ContainsFunc(h.domains, func(x texts) bool {
			return strings.Contains(x.read(), path) || slices.ContainsFunc(soundPools, func(pool string) bool { return strings.Contains(x.read(), soundVolume(pool, path)) })
		}) {
			by[path] = ""
		}
	}
	return by
}

// read is all that is read of a domain, but for its snapshots.
func (x *texts) read() string {
	if x.state.Live() && !x.transient {
		return x.live + x.saved + x.inactive
	}
	return x.live + x.saved
}

// madeDir is a directory in memory, where that can be had.
func madeDir() (dir string, remove func()) {
	dir, err := os.MkdirTemp(tidy.Memory(), "virt-rotate-test-")
	must(err)
	return dir, func() { must(os.RemoveAll(dir)) }
}
