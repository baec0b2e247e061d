package guest

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"
)

const (
	defaultSize = 8 << 20
	emulator    = "/usr/bin/qemu-system-x86_64"
	bootTarget  = "vdz"
)

// A Spec describes a guest. Zero values stand for defaults, which Define fills in.
type Spec struct {
	Name      string
	Disks     []DiskSpec // vda, vdb, …; one default disk if there is none
	MemoryMiB int        // 16
	Machine   string     // pc
	Bus       string     // ide, which SeaBIOS drives at a tenth of virtio's cost; at most 4 disks
	Params    Params     // DefaultParams of the smallest disk; else zero fields but Pause filled in
	Devices   string     // more device XML
	Idle      []string   // targets of writable disks in Devices: the guest does not write to them
	// Cache is libvirt's cache mode of the data disks. Guests whose QEMU is killed need
	// "writethrough": they flush nothing, and QEMU keeps qcow2 tables in memory.
	Cache string
}

// A DiskSpec describes a data disk, and its image unless that exists already.
type DiskSpec struct {
	Path          string // below the host's directory, images/NAME-TARGET.FORMAT
	Format        string // qcow2
	Size          int64  // bytes: 8 MiB, or that of Backing
	Block         bool   // Path is a block device
	Pool          string // libvirt is to know the image as a volume of this storage pool, in which it lies
	Existing      bool   // use Path as it is
	Backing       string // make the image an overlay of this one
	BackingFormat string
	Options       string // for qemu-img create -o
}

// A Disk is a data disk as libvirt has it now: Path is the active layer.
type Disk struct {
	Target, Path, Format string
}

// Define makes a guest's images and defines it, shut off.
func (h *Host) Define(ctx context.Context, spec Spec) error {
	spec = h.complete(spec)
	for _, d := range spec.Disks {
		if err := d.create(ctx); err != nil {
			return err
		}
		if d.Pool != "" {
			if _, err := h.Virsh(ctx, "pool-refresh", d.Pool); err != nil {
				return err
			}
		}
	}
	if err := spec.fitParams(ctx); err != nil {
		return err
	}
	if err := spec.Params.WriteBootDisk(h.bootDisk(spec.Name)); err != nil {
		return err
	}
	file := filepath.Join(h.dir, spec.Name+".xml")
	if err := os.WriteFile(file, h.xml(spec), 0o644); err != nil {
		return err
	}
	h.mu.Lock()
	h.domains[spec.Name] = spec
	h.mu.Unlock()
	_, err := h.Virsh(ctx, "define", file)
	return err
}

// Spec returns what Define made of a guest's description.
func (h *Host) Spec(name string) Spec {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.domains[name]
}

// bootDisk is where a guest's boot disk lies: apart from everything else, since the directory
// of an image is searched for others that build on it, and all below it.
func (h *Host) bootDisk(name string) string { return filepath.Join(h.dir, bootDir, name+".boot") }

// SerialLog is the file that a guest's dots go to.
func (h *Host) SerialLog(name string) string { return filepath.Join(h.dir, name+".serial") }

func (h *Host) complete(spec Spec) Spec {
	spec.Disks = append([]DiskSpec(nil), spec.Disks...)
	if len(spec.Disks) == 0 {
		spec.Disks = make([]DiskSpec, 1)
	}
	for i := range spec.Disks {
		d := &spec.Disks[i]
		setDefault(&d.Format, "qcow2")
		setDefault(&d.Path, filepath.Join(h.dir, imagesDir, spec.Name+"-"+target(i)+"."+d.Format))
		if d.Size == 0 && d.Backing == "" {
			d.Size = defaultSize
		}
	}
	setDefault(&spec.MemoryMiB, 16)
	setDefault(&spec.Machine, "pc")
	setDefault(&spec.Bus, "ide")
	return spec
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func target(i int) string { return "vd" + string(rune('a'+i)) }

// Volume is the image's name in its pool.
func (d DiskSpec) Volume() string { return filepath.Base(d.Path) }

// create makes the image. A raw block device is there already.
func (d DiskSpec) create(ctx context.Context) error {
	if d.Existing || d.Block && d.Format == "raw" {
		return nil
	}
	args := []string{"create", "-q", "-f", d.Format}
	if d.Backing != "" {
		args = append(args, "-b", d.Backing, "-F", d.BackingFormat)
	}
	if d.Options != "" {
		args = append(args, "-o", d.Options)
	}
	args = append(args, d.Path)
	if d.Size != 0 {
		args = append(args, strconv.FormatInt(d.Size, 10))
	}
	_, err := QemuImg(ctx, args...)
	return err
}

// fitParams completes the parameters for the smallest disk.
func (s *Spec) fitParams(ctx context.Context) error {
	var sizes []int64
	for _, d := range s.Disks {
		chain, err := Chain(ctx, d.Path, d.Format)
		if err != nil {
			return err
		}
		sizes = append(sizes, chain[0].VirtualSize)
	}
	size := slices.Min(sizes)
	if s.Params == (Params{}) {
		s.Params = DefaultParams(size)
	}
	s.Params = s.Params.withDefaults(size)
	if int64(s.Params.Slots) > size/SlotSize {
		return fmt.Errorf("domain %s: %d slots do not fit on a disk of %d bytes", s.Name, s.Params.Slots, size)
	}
	return s.Params.validate()
}

// SeaBIOS sees only disks with a boot order, and numbers them by it.
var domainXML = template.Must(template.New("domain").Parse(`<domain type='qemu'>
<name>{{.Name}}</name>
<memory unit='MiB'>{{.MemoryMiB}}</memory>
<vcpu>1</vcpu>
<os><type arch='x86_64' machine='{{.Machine}}'>hvm</type></os>
<on_poweroff>destroy</on_poweroff>
<on_reboot>restart</on_reboot>
<on_crash>destroy</on_crash>
<devices>
<emulator>{{.Emulator}}</emulator>
<disk type='file' device='disk'>
<driver name='qemu' type='raw'/>
<source file='{{html .BootDisk}}'/>
<target dev='{{.BootTarget}}' bus='virtio'/>
<readonly/>
<boot order='1'/>
</disk>
{{range .Data}}<disk type='{{if .Pool}}volume{{else if .Block}}block{{else}}file{{end}}' device='disk'>
<driver name='qemu' type='{{.Format}}'{{with $.Cache}} cache='{{.}}'{{end}}/>
<source {{if .Pool}}pool='{{.Pool}}' volume='{{html .Volume}}'{{else if .Block}}dev='{{html .Path}}'{{else}}file='{{html .Path}}'{{end}}/>
<target dev='{{.Target}}' bus='{{$.Bus}}'/>
<boot order='{{.Order}}'/>
{{with .IDE}}<address type='drive' controller='0' bus='{{.Channel}}' unit='{{.Unit}}'/>
{{end}}</disk>
{{end}}<controller type='usb' model='none'/>
<memballoon model='none'/>
<serial type='file'><source path='{{html .Serial}}' append='on'/></serial>
{{.Devices}}
</devices>
</domain>
`))

type xmlDisk struct {
	DiskSpec
	Target string
	Order  int // of booting, from 1
	IDE    *ideAddress
}

// An ideAddress lets an IDE disk be called vda.
type ideAddress struct{ Channel, Unit int }

func (h *Host) xml(spec Spec) []byte {
	data := struct {
		Spec
		Emulator, BootDisk, BootTarget, Serial string
		Data                                   []xmlDisk
	}{spec, emulator, h.bootDisk(spec.Name), bootTarget, h.SerialLog(spec.Name), nil}
	for i, d := range spec.Disks {
		disk := xmlDisk{d, target(i), i + 2, nil}
		if spec.Bus == "ide" {
			disk.IDE = &ideAddress{i / 2, i % 2}
		}
		data.Data = append(data.Data, disk)
	}
	var b strings.Builder
	if err := domainXML.Execute(&b, data); err != nil {
		panic(err) // a strings.Builder does not fail, nor does the template
	}
	return []byte(b.String())
}

// Start starts a guest. It writes on from the last block on its first disk.
func (h *Host) Start(ctx context.Context, name string) error {
	_, err := h.Virsh(ctx, "start", name)
	return err
}

// Destroy pulls the plug.
func (h *Host) Destroy(ctx context.Context, name string) error {
	_, err := h.Virsh(ctx, "destroy", name)
	// A client that has just connected may notice the death that it caused before
	// it notices that it has succeeded.
	if err != nil && strings.Contains(err.Error(), "domain is not running") {
		return nil
	}
	return err
}

// WaitOff waits until libvirt, too, has noticed that a guest is off. Each new client
// of an embedded host at first believes what it last heard.
func (h *Host) WaitOff(ctx context.Context, name string) error {
	return Await(ctx, "libvirt to notice that "+name+" is off", func() (bool, error) {
		state, err := h.Virsh(ctx, "domstate", name)
		return strings.TrimSpace(state) == "shut off", err
	})
}

// Writes counts the blocks that a guest has reported on the serial line, over all
// its starts. It has written up to a batch more.
func (h *Host) Writes(name string) (uint64, error) {
	b, err := os.ReadFile(h.SerialLog(name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	return uint64(strings.Count(string(b), ".")) * uint64(h.Spec(name).Params.Batch), nil
}

// WaitWrites waits until a guest has written n more blocks.
func (h *Host) WaitWrites(ctx context.Context, name string, n uint64) error {
	first, err := h.Writes(name)
	if err != nil {
		return err
	}
	now := first
	err = Await(ctx, "writes", func() (bool, error) {
		now, err = h.Writes(name)
		return now >= first+n, err
	})
	if err != nil {
		return fmt.Errorf("guest %s wrote %d of %d blocks: %w", name, now-first, n, err)
	}
	return nil
}

// Disks returns a domain's writable disks, with the layers that are active now.
func (h *Host) Disks(ctx context.Context, name string) ([]Disk, error) {
	out, err := h.Virsh(ctx, "dumpxml", name)
	if err != nil {
		return nil, err
	}
	disks, err := h.disksIn(ctx, out)
	return h.busy(name, disks), err
}

// busy leaves out the disks to which the guest does not write.
func (h *Host) busy(name string, disks []Disk) []Disk {
	idle := h.Spec(name).Idle
	return slices.DeleteFunc(disks, func(d Disk) bool { return slices.Contains(idle, d.Target) })
}

// disksIn reads the XML of a domain, and what a batch of virsh has printed before it.
func (h *Host) disksIn(ctx context.Context, out string) ([]Disk, error) {
	before, text, _ := strings.Cut(out, "<domain")
	var domain struct {
		Disks []diskXML `xml:"devices>disk"`
	}
	if err := xml.Unmarshal([]byte("<domain"+text), &domain); err != nil {
		return nil, fmt.Errorf("domain: %w: %s", err, before)
	}
	var disks []Disk
	for _, d := range domain.Disks {
		if d.ReadOnly != nil {
			continue
		}
		path := d.path()
		if d.Source.Pool != "" {
			found, err := h.Virsh(ctx, "vol-path", d.Source.Volume, "--pool", d.Source.Pool)
			if err != nil {
				return nil, err
			}
			path = strings.TrimSpace(found)
		}
		disks = append(disks, Disk{d.Target.Dev, path, d.Driver.Type})
	}
	return disks, nil
}

// diskXML is a <disk> of a domain or of a snapshot, as far as we need it.
type diskXML struct {
	Name     string    `xml:"name,attr"` // of a snapshot's disk: the target
	Snapshot string    `xml:"snapshot,attr"`
	ReadOnly *struct{} `xml:"readonly"`
	Target   struct {
		Dev string `xml:"dev,attr"`
	} `xml:"target"`
	Driver struct {
		Type string `xml:"type,attr"`
	} `xml:"driver"`
	Source struct {
		File string `xml:"file,attr"`
		Dev  string `xml:"dev,attr"`

		Pool   string `xml:"pool,attr"`
		Volume string `xml:"volume,attr"`
	} `xml:"source"`
}

func (d diskXML) path() string { return d.Source.File + d.Source.Dev }

// CheckGuest verifies that the disks of a guest hold a prefix of its writes, all of
// one moment, and returns their states by target. A running guest is suspended for
// that time.
func (h *Host) CheckGuest(ctx context.Context, name string) (states map[string]State, err error) {
	// Few processes: each costs more than what it asks.
	out, err := h.Virsh(ctx, fmt.Sprintf("domstate '%s'; dumpxml '%s'", name, name))
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(out, "running\n") {
		if out, err = h.Virsh(ctx, fmt.Sprintf("suspend '%s'; dumpxml '%s'", name, name)); err != nil {
			return nil, err
		}
		if before, _, _ := strings.Cut(out, "<domain"); !strings.Contains(before, "suspended") {
			return nil, fmt.Errorf("domain %s is not suspended: %s", name, before)
		}
		defer func() {
			_, resumeErr := h.Virsh(ctx, "resume", name)
			err = errors.Join(err, resumeErr)
		}()
	}
	disks, err := h.disksIn(ctx, out)
	if err != nil {
		return nil, err
	}
	chains := map[string][]Layer{}
	for _, d := range h.busy(name, disks) {
		if chains[d.Target], err = Chain(ctx, d.Path, d.Format); err != nil {
			return nil, err
		}
	}
	return h.readTogether(ctx, name, chains)
}

// readTogether reads the disks of one moment, by target; the top of a chain is first.
func (h *Host) readTogether(ctx context.Context, name string, chains map[string][]Layer) (map[string]State, error) {
	states := map[string]State{}
	var ks []uint64
	for _, target := range slices.Sorted(maps.Keys(chains)) {
		s, err := readState(ctx, chains[target], h.Spec(name).Params)
		if err != nil {
			return nil, fmt.Errorf("domain %s, disk %s: %w", name, target, err)
		}
		states[target] = s
		ks = append(ks, s.Blocks)
	}
	if err := CheckTogether(ks...); err != nil {
		return nil, fmt.Errorf("domain %s: %w", name, err)
	}
	return states, nil
}
