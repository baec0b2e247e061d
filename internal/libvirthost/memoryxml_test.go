package libvirthost

import (
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"libvirt.org/go/libvirtxml"
)

const savedDomain = `<domain type='kvm'>
  <name>web</name>
  <uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid>
  <memory unit='KiB'>1048576</memory>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none'/>
      <source file='/img/web.raw'/>
      <backingStore/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='/img/tools.iso'/>
      <target dev='vdz' bus='virtio'/>
      <readonly/>
    </disk>
    <video><model type='qxl' ram='65536' vram='65536' vgamem='16384' heads='1'/></video>
    <newdevice kind='2031'/>
  </devices>
</domain>`

// A guest goes on with the disks of now, and everything else as it was.
func TestASavedConfigurationGetsTheChainsOfNow(t *testing.T) {
	chain := []host.Layer{{Path: "/img/web.raw", Format: "raw", Kind: host.KindFile}, {Path: "/img/web.s1.qcow2", Format: "qcow2", Kind: host.KindFile}}
	fixed, who, err := goingOn(savedDomain, map[string][]host.Layer{"vda": chain})
	if err != nil || who.Name != "web" || who.UUID != "4dea22b3-1d52-d8f3-2516-782e98ab3fa0" {
		t.Fatal(who, err)
	}
	var x libvirtxml.Domain
	if err := x.Unmarshal(fixed); err != nil {
		t.Fatal(err)
	}
	vda := x.Devices.Disks[0]
	if vda.Source.File.File != "/img/web.s1.qcow2" || vda.Driver.Type != "qcow2" || vda.Driver.Cache != "none" || vda.BackingStore == nil || vda.BackingStore.Source.File.File != "/img/web.raw" ||
		vda.BackingStore.Format.Type != "raw" || vda.BackingStore.BackingStore == nil {
		t.Errorf("vda: %+v\n%s", vda, fixed)
	}
	for _, stays := range []string{"/img/tools.iso", "newdevice", "1048576"} {
		if !strings.Contains(fixed, stays) {
			t.Errorf("%s is gone:\n%s", stays, fixed)
		}
	}
	if n := memoryOf(&x); n != 1<<30+128<<20 {
		t.Errorf("%d bytes of memory", n)
	}
}

func TestUnitsOfMemory(t *testing.T) {
	for unit, want := range map[string]int64{"": 3 << 10, "KiB": 3 << 10, "k": 3 << 10, "b": 3, "bytes": 3, "MiB": 3 << 20, "M": 3 << 20, "GiB": 3 << 30, "TiB": 3 << 40} {
		if n := memoryOf(&libvirtxml.Domain{Memory: &libvirtxml.DomainMemory{Value: 3, Unit: unit}}); n != want {
			t.Errorf("3 %q: %d bytes, want %d", unit, n, want)
		}
	}
}

const memorySnapshot = `<domainsnapshot>
  <name>mine</name>
  <description>Taken by virt-rotate (policy p)</description>
  <state>running</state>
  <creationTime>1795888574</creationTime>
  <memory snapshot='external' file='/img/web.mine-20261128T180345Z.memory'/>
  <disks>
    <disk name='vda' snapshot='external' type='file'>
      <driver type='qcow2'/>
      <source file='/img/web.mine-20261128T180345Z.qcow2'/>
    </disk>
  </disks>
  ` + savedDomain + `
  <cookie>
    <cpu mode='custom'><model>qemu64</model></cpu>
  </cookie>
</domainsnapshot>`

// What libvirt has on record of the memory survives redefinition.
func TestTheMetadataOfMemoryAreKept(t *testing.T) {
	s, err := readSnapshot(memorySnapshot)
	if err != nil || s.Memory != "/img/web.mine-20261128T180345Z.memory" || s.Internal {
		t.Fatalf("%+v %v", s, err)
	}
	chain := []host.Layer{{Path: "/img/base.qcow2", Format: "qcow2", Kind: host.KindFile}}
	fixed, err := fixSnapshot(memorySnapshot, host.SnapshotFix{Snapshot: "mine", Chains: map[string][]host.Layer{"vda": chain}, Current: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, stays := range []string{"<state>running</state>", `<memory snapshot="external" file="/img/web.mine-20261128T180345Z.memory">`, "<cookie>", "qemu64", "/img/base.qcow2"} {
		if !strings.Contains(fixed, stays) {
			t.Errorf("no %s in\n%s", stays, fixed)
		}
	}
	text, err := snapshotXML(host.SnapshotSpec{Name: "mine", Overlays: map[string]string{"vda": "/img/o.qcow2"}, Memory: &host.MemorySpec{Path: "/img/m & m.memory"}})
	if again, failed := readSnapshot(strings.Replace(text, "</name>", "</name><creationTime>1</creationTime>", 1)); err != nil || failed != nil || again.Memory != "/img/m & m.memory" {
		t.Errorf("%s: %+v %v %v", text, again, err, failed)
	}
}
