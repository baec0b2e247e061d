package libvirthost

import (
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"libvirt.org/go/libvirtxml"
)

func parseDisk(t *testing.T, text string) *libvirtxml.DomainDisk {
	t.Helper()
	var x libvirtxml.DomainDisk
	if err := x.Unmarshal(text); err != nil {
		t.Fatal(err)
	}
	return &x
}

func TestReadDomainReadsARunningGuest(t *testing.T) {
	d := host.Domain{Name: "t1"}
	if err := readDomain(&d, testdata(t, "live.xml"), nil); err != nil {
		t.Fatal(err)
	}
	if d.UUID != "095b2e6f-03bb-4819-b4ce-a68a5d5494fe" || d.UEFI || d.AppArmor || d.Agent || len(d.Disks) != 1 {
		t.Errorf("%+v", d)
	}
	disk := d.Disks[0]
	if disk.Target != "vda" || disk.Kind != "file" || disk.Device != "disk" || disk.Job != nil || len(disk.Chain) < 4 {
		t.Fatalf("%+v", disk)
	}
	base, active := disk.Chain[0], *disk.Active()
	if base.Path != "/srv/vm/base.qcow2" || base.Index != 1 || base.Format != "qcow2" || active.Index < 4 || !strings.Contains(active.Path, "nightly") {
		t.Errorf("base %+v, active %+v", base, active)
	}
}

func TestReadDisk(t *testing.T) {
	const disk, source, target = `<disk type='file' device='disk'>`, `<source file='/a'/>`, `<target dev='vda'/></disk>`
	plain := host.Disk{Target: "vda", Kind: "file", Device: "disk", Chain: []host.Layer{{Path: "/a", Format: "raw", Kind: "file"}}}
	cases := []struct {
		text   string
		change func(*host.Disk)
	}{
		{disk + source + target, func(*host.Disk) {}},
		{`<disk type='file'>` + source + target, func(*host.Disk) {}},
		{disk + source + `<readonly/>` + target, func(d *host.Disk) { d.ReadOnly = true }},
		{disk + source + `<shareable/>` + target, func(d *host.Disk) { d.Shareable = true }},
		{disk + source + `<transient/>` + target, func(d *host.Disk) { d.Transient = true }},
		{disk + source + `<encryption format='luks'/>` + target, func(d *host.Disk) { d.Encrypted = true }},
		{disk + `<source file='/a'><encryption format='luks'/></source>` + target, func(d *host.Disk) { d.Encrypted = true }},
		{disk + `<driver type='qcow2'/>` + source + target, func(d *host.Disk) { d.Chain[0].Format = "qcow2" }},
		{`<disk type='file' device='cdrom'>` + source + target, func(d *host.Disk) { d.Device, d.ReadOnly = "cdrom", true }},
		{`<disk type='file' device='cdrom'>` + target, func(d *host.Disk) { d.Device, d.ReadOnly, d.Chain = "cdrom", true, nil }},
		{`<disk type='block' device='lun'><source dev='/dev/sda'/>` + target, func(d *host.Disk) {
			d.Device, d.Kind, d.Chain = "lun", "block", []host.Layer{{Path: "/dev/sda", Format: "raw", Kind: "block"}}
		}},
		{`<disk type='network'><source protocol='rbd' name='p/i'/>` + target, func(d *host.Disk) {
			d.Kind, d.Chain = "network", []host.Layer{{Path: "rbd:p/i", Format: "raw", Kind: "network"}}
		}},
		{`<disk type='volume'><source pool='p' volume='v'/>` + target, func(d *host.Disk) {
			d.Kind, d.Chain = "volume", []host.Layer{{Path: "p/v", Format: "raw", Kind: "volume"}}
		}},
		{disk + source + `<mirror type='file' job='active-commit' ready='yes'><source file='/b'/></mirror>` + target, func(d *host.Disk) {
			d.Job = &host.Job{Type: "active-commit", Ready: true, Target: "/b"}
		}},
	}
	for _, c := range cases {
		want := plain
		want.Chain = slices.Clone(plain.Chain)
		c.change(&want)
		have := readDisk(parseDisk(t, c.text), nil)
		if want.Job != nil && (have.Job == nil || *have.Job != *want.Job) {
			t.Errorf("%s: job %+v", c.text, have.Job)
		}
		layers := slices.EqualFunc(have.Chain, want.Chain, func(a, b host.Layer) bool {
			return a.Path == b.Path && a.Format == b.Format && a.Kind == b.Kind && a.Index == b.Index
		})
		if !layers || have.Target != want.Target || have.Kind != want.Kind || have.Device != want.Device || have.ReadOnly != want.ReadOnly ||
			have.Shareable != want.Shareable || have.Transient != want.Transient || have.Encrypted != want.Encrypted {
			t.Errorf("%s:\n%+v, want\n%+v", c.text, have, want)
		}
	}
}

func TestReadChainTellsWhetherTheChainEnds(t *testing.T) {
	const top = `<disk type='file'><driver type='qcow2'/><source file='/top' index='3'/>`
	const below = `<backingStore type='file' index='2'><format type='raw'/><source file='/base'/>`
	cases := []struct {
		text  string
		paths []string
		cut   bool
	}{
		{top + `</disk>`, []string{"/top"}, true},
		{top + `<backingStore/></disk>`, []string{"/top"}, false},
		{top + below + `<backingStore/></backingStore></disk>`, []string{"/base", "/top"}, false},
		{top + below + `</backingStore></disk>`, []string{"/base", "/top"}, true},
		{`<disk type='file'><driver type='raw'/><source file='/raw'/></disk>`, []string{"/raw"}, false},
		{`<disk type='file' device='cdrom'/>`, nil, true},
	}
	for _, c := range cases {
		layers, cut := readChain(parseDisk(t, c.text), nil)
		if !slices.Equal(layerPaths(layers), c.paths) || cut != c.cut {
			t.Errorf("%s: %v, cut %v", c.text, layerPaths(layers), cut)
		}
		if len(layers) == 2 && (layers[0].Index != 2 || layers[1].Index != 3 || layers[0].Format != "raw") {
			t.Errorf("%s: %+v", c.text, layers)
		}
	}
}

func TestReadDomainReadsWhatItIsTold(t *testing.T) {
	d := host.Domain{}
	err := readDomain(&d, `<domain type='kvm'><uuid>u</uuid><os><type>hvm</type><nvram>/n</nvram></os><devices>
		<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel></devices>
		<seclabel type='dynamic' model='apparmor' relabel='yes'/></domain>`, nil)
	if err != nil || !d.UEFI || !d.AppArmor || !d.Agent || d.UUID != "u" {
		t.Errorf("%+v, %v", d, err)
	}
	d = host.Domain{}
	err = readDomain(&d, `<domain type='kvm'><devices>
		<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='disconnected'/></channel>
		<channel type='unix'><target type='virtio' name='com.redhat.spice.0' state='connected'/></channel></devices></domain>`, nil)
	if err != nil || d.Agent {
		t.Errorf("%+v, %v", d, err)
	}
	if err := readDomain(&host.Domain{Name: "web"}, "<domain", nil); err == nil || !strings.Contains(err.Error(), "web") {
		t.Errorf("%v", err)
	}
}

func TestWhatThePersistentConfigurationAdds(t *testing.T) {
	d := host.Domain{Disks: []host.Disk{{Target: "vda"}, {Target: "vdb"}}}
	err := readInactive(&d, `<domain><devices>
		<disk type='file'><driver type='qcow2'/><source file='/a2'/><backingStore type='file'><format type='qcow2'/><source file='/a1'/></backingStore><target dev='vda'/></disk>
		<disk type='file'><driver type='qcow2'/><source file='/c2'/><backingStore type='file'><format type='qcow2'/><source file='/c1'/></backingStore><target dev='vdc'/></disk>
		</devices></domain>`, nil)
	if err != nil || !slices.Equal(d.Disks[0].Inactive, []string{"/a1", "/a2"}) || d.Disks[1].Inactive != nil || !slices.Equal(d.Elsewhere, []string{"/c1", "/c2"}) {
		t.Errorf("%+v, %v", d, err)
	}
	d = host.Domain{}
	if err := readElsewhere(&d, `<domain><devices><disk type='file'><source file='/s'/><target dev='vda'/></disk></devices></domain>`, nil); err != nil || !slices.Equal(d.Elsewhere, []string{"/s"}) {
		t.Errorf("%+v, %v", d, err)
	}
	for _, read := range []func(*host.Domain, string, *volumes) error{readInactive, readElsewhere} {
		if err := read(&d, `<domain/>`, nil); err != nil {
			t.Error(err)
		}
		if err := read(&d, `no XML`, nil); err == nil {
			t.Error("no XML was read")
		}
	}
}
