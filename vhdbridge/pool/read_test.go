package pool

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
	"github.com/virt-rotate/virt-rotate/vhdbridge/xva/xvatest"
)

const (
	rootVDI = "25ca0d3e-a78c-52f6-ad1e-32cb3f742f0b"
	snapVDI = "d7193eeb-8fa5-5df8-afbf-1e02e019d2dd"
	webVM   = "11111111-0000-0000-0000-000000000001"
	snapVM  = "11111111-0000-0000-0000-000000000002"
)

// poolDatabase is as xapi writes it, shortened.
const poolDatabase = `<?xml version="1.0"?><database><manifest><pair key="schema_major_vsn" value="5"/></manifest>
<table name="VM"><row ref="OpaqueRef:vm" __ctime="1" uuid="` + webVM + `" name__label="web%.1%.%%" memory__static_max="4294967296" memory__dynamic_max="2147483648"
 VCPUs__max="8" VCPUs__at_startup="4" HVM__boot_policy="BIOS%.order" HVM__boot_params="(('order'%.'dc')%.('firmware'%.'uefi'))"
 platform="(('cores-per-socket'%.'4')%.('viridian'%.'false')%.('it\'s'%.'\\'))" NVRAM="(('EFI-variables'%.'VkFSUw=='))" guest__metrics="OpaqueRef:m"/>
<row ref="OpaqueRef:snap" uuid="` + snapVM + `" name__label="before%.monday" is_a_snapshot="true" snapshot_of="OpaqueRef:vm" snapshot_time="20240117T03:15:00Z"/>
<row ref="OpaqueRef:dom0" uuid="11111111-0000-0000-0000-000000000003" name__label="Control domain" is_control_domain="true"/>
<row ref="OpaqueRef:pv" uuid="11111111-0000-0000-0000-000000000004" name__label="old" HVM__boot_policy=""/></table>
<table name="VM_guest_metrics"><row ref="OpaqueRef:m" uuid="m" os_version="(('name'%.'Debian%.12')%.('distro'%.'debian'))"/></table>
<table name="VDI"><row ref="OpaqueRef:a" uuid="` + rootVDI + `" name__label="root%n&lt;b&gt;" name__description="%." managed="true" is_a_snapshot="false" snapshot_of="OpaqueRef:NULL" snapshot_time="19700101T00:00:00Z"/>
<row ref="OpaqueRef:b" uuid="` + snapVDI + `" name__label="root" managed="true" is_a_snapshot="true" snapshot_of="OpaqueRef:a" snapshot_time="20240117T03:15:00Z"/></table>
<table name="VBD"><row ref="OpaqueRef:w" VM="OpaqueRef:dom0" VDI="OpaqueRef:a" userdevice="9" type="Disk"/><row ref="OpaqueRef:x" VM="OpaqueRef:vm" VDI="OpaqueRef:a" userdevice="0" type="Disk" bootable="true" mode="RW"/>
<row ref="OpaqueRef:y" VM="OpaqueRef:snap" VDI="OpaqueRef:b" userdevice="0" type="Disk"/><row ref="OpaqueRef:v" VM="OpaqueRef:dom0" VDI="OpaqueRef:a" userdevice="9" type="Disk"/>
<row ref="OpaqueRef:z" VM="OpaqueRef:vm" VDI="OpaqueRef:NULL" userdevice="3" type="CD"/></table>
<table name="VIF"><row ref="OpaqueRef:i" uuid="i" VM="OpaqueRef:vm" device="0" MAC="AA:bb:cc:00:11:22" network="OpaqueRef:n"/></table>
<table name="network"><row ref="OpaqueRef:n" uuid="n" name__label="Pool%.wide" bridge="xenbr0"/></table></database>`

const vdiList = `uuid ( RO)                : 25ca0d3e-a78c-52f6-ad1e-32cb3f742f0b
          name-label ( RW): root: the first
    name-description ( RW): two
lines
       is-a-snapshot ( RO): false
         snapshot-of ( RO): <not in database>
       snapshot-time ( RO): 19700101T00:00:00Z
             managed ( RO): true


uuid ( RO)                : d7193eeb-8fa5-5df8-afbf-1e02e019d2dd
          name-label ( RW): root
       is-a-snapshot ( RO): true
         snapshot-of ( RO): 25ca0d3e-a78c-52f6-ad1e-32cb3f742f0b
       snapshot-time ( RO): 20240117T03:15:00Z
`

const vmList = `uuid ( RO)                          : 11111111-0000-0000-0000-000000000001
                    name-label ( RW): web 1 %
                 is-a-snapshot ( RO): false
                   snapshot-of ( RO): <not in database>
             is-control-domain ( RO): false
                   power-state ( RO): halted
            memory-dynamic-max ( RW): 2147483648
             memory-static-max ( RW): 4294967296
                     VCPUs-max ( RW): 8
              VCPUs-at-startup ( RW): 4
               HVM-boot-policy ( RW): BIOS order
               HVM-boot-params (MRW): order: dc; firmware: uefi
                      platform (MRW): timeoffset: 0; cores-per-socket: 4; viridian: false
                    os-version (MRO): name: Debian 12; distro: debian; uname: 6.1.0
`

const snapshotList = `uuid ( RO)                : 11111111-0000-0000-0000-000000000002
          name-label ( RW): before monday
    name-description ( RW):
    is-vmss-snapshot ( RO): false
         snapshot-of ( RO): 11111111-0000-0000-0000-000000000001
       snapshot-time ( RO): 20240117T03:15:00Z
`

const vbdList = `uuid ( RO)                        : 22222222-0000-0000-0000-000000000001
                     vm-uuid ( RO): 11111111-0000-0000-0000-000000000001
               vm-name-label ( RO): web 1 %
                    vdi-uuid ( RO): 25ca0d3e-a78c-52f6-ad1e-32cb3f742f0b
                  userdevice ( RW): 0
                    bootable ( RW): true
                        type ( RW): Disk

uuid ( RO)                        : 22222222-0000-0000-0000-000000000002
                     vm-uuid ( RO): 11111111-0000-0000-0000-000000000002
                    vdi-uuid ( RO): d7193eeb-8fa5-5df8-afbf-1e02e019d2dd
                  userdevice ( RW): 0
                        type ( RW): Disk

uuid ( RO)                  : 33333333-0000-0000-0000-000000000001
               vm-uuid ( RO): 11111111-0000-0000-0000-000000000001
                device ( RO): 0
                   MAC ( RO): AA:bb:cc:00:11:22
    network-name-label ( RO): Pool wide
`

func readAll(t *testing.T, texts ...string) *Pool {
	t.Helper()
	p := &Pool{}
	for _, text := range texts {
		if err := p.Read(strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func gzipped(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write([]byte(text))
	w.Close()
	return b.String()
}

// A database, packed or not, and the lists of xe tell the same of VDIs.
func TestNamesOfAPool(t *testing.T) {
	at := time.Date(2024, 1, 17, 3, 15, 0, 0, time.UTC)
	web := vhdbridge.Owner{UUID: webVM, Name: "web 1 %"}
	snap := vhdbridge.Owner{UUID: webVM, Name: "web 1 %", Snapshot: snapVM, SnapshotName: "before monday"}
	full := [2]vhdbridge.VDI{{UUID: rootVDI, Name: "root\n<b>", Description: " ", Managed: true, VM: "web 1 %", Device: "0", Guest: web},
		{UUID: snapVDI, Name: "root", Managed: true, Snapshot: true, SnapshotOf: rootVDI, SnapshotTime: at, VM: "before monday", Device: "0", Guest: snap}}
	listed := [2]vhdbridge.VDI{{UUID: rootVDI, Name: "root: the first", Description: "two\nlines", Managed: true, VM: "web 1 %", Device: "0", Guest: web},
		{UUID: snapVDI, Name: "root", Snapshot: true, SnapshotOf: rootVDI, SnapshotTime: at, VM: "before monday", Device: "0", Guest: snap}}
	alone := listed
	for i := range alone {
		alone[i].VM, alone[i].Device, alone[i].Guest = "", "", vhdbridge.Owner{}
	}
	for _, c := range []struct {
		texts []string
		want  [2]vhdbridge.VDI
	}{
		{[]string{poolDatabase}, full}, {[]string{gzipped(poolDatabase)}, full}, {[]string{vdiList}, alone},
		{[]string{vdiList, vmList, snapshotList, vbdList}, listed}, {[]string{vbdList, snapshotList, gzipped(vmList), vdiList}, listed},
		{[]string{vdiList + "\n" + vmList + "\n" + vbdList, snapshotList}, listed},
	} {
		vdis := readAll(t, c.texts...).VDIs()
		if len(vdis) != 2 || vdis[rootVDI] != c.want[0] || vdis[snapVDI] != c.want[1] {
			t.Errorf("%+v, want\n%+v", vdis, c.want)
		}
	}
}

// What a guest is like, by a database and by lists.
func TestAGuestOfAPool(t *testing.T) {
	for _, p := range []*Pool{readAll(t, poolDatabase), readAll(t, vmList, vbdList, vdiList, snapshotList)} {
		g, err := p.Guest("web 1 %")
		if err != nil {
			t.Fatal(err)
		}
		if g.UUID != webVM || g.Memory != 4<<30 || g.MemoryNow != 2<<30 || g.VCPUs != 8 || g.VCPUsNow != 4 || g.Cores != 4 || !g.UEFI || g.BootOrder != "dc" ||
			g.Paravirtual || g.Windows || !g.Virtio || g.OS != "Debian 12" {
			t.Errorf("%+v", g)
		}
		if len(g.Disks) != 1 || g.Disks[0] != (Disk{VDI: rootVDI, Device: "0", Bootable: true}) {
			t.Errorf("%+v", g.Disks)
		}
		if len(g.Networks) != 1 || g.Networks[0].MAC != "aa:bb:cc:00:11:22" || g.Networks[0].Name != "Pool wide" {
			t.Errorf("%+v", g.Networks)
		}
		if same, err := p.Guest(strings.ToUpper(webVM)); err != nil || same.Name != g.Name {
			t.Errorf("%v %v", same, err)
		}
	}
	p := readAll(t, poolDatabase)
	if g, _ := p.Guest("web 1 %"); string(g.Variables) != "VARS" || g.Networks[0].Bridge != "xenbr0" {
		t.Errorf("%q %+v", g.Variables, g.Networks)
	}
	if g, err := p.Guest("old"); err != nil || !g.Paravirtual {
		t.Errorf("%+v %v", g, err)
	}
	for _, name := range []string{"nobody", "before monday", "Control domain"} {
		if g, err := p.Guest(name); !errors.Is(err, ErrNoGuest) || !strings.Contains(err.Error(), `"web 1 %"`) {
			t.Errorf("%s: %+v %v", name, g, err)
		}
	}
}

// Two guests may have one name: then it is the UUID that tells.
func TestGuestsOfOneNameAreToldApart(t *testing.T) {
	text := strings.Replace(poolDatabase, `name__label="old"`, `name__label="web%.1%.%%"`, 1)
	_, err := readAll(t, text).Guest("web 1 %")
	if !errors.Is(err, ErrNoGuest) || !strings.Contains(err.Error(), webVM) {
		t.Error(err)
	}
}

// Metadata of a guest is an export without disks.
func TestMetadataOfOneGuest(t *testing.T) {
	m := xvatest.MembersOf([]xvatest.Machine{{ID: "Ref:1", Name: "web"}, {ID: "Ref:2", Name: "monday", SnapshotOf: "Ref:1"}}, false,
		xvatest.Disk{ID: "Ref:3", UUID: rootVDI, Name: "root", Device: "0", Drive: "Disk", VM: "Ref:1", Content: make([]byte, 512)},
		xvatest.Disk{ID: "Ref:4", UUID: snapVDI, Name: "root", Device: "0", Drive: "Disk", VM: "Ref:2", Content: make([]byte, 512)})[:1]
	p := readAll(t, string(xvatest.Tar(m)))
	vdis := p.VDIs()
	if v := vdis[rootVDI]; v.VM != "web" || v.Device != "0" {
		t.Errorf("%+v", v)
	}
	if v := vdis[snapVDI]; v.Guest.SnapshotName != "monday" || v.Guest.Name != "web" || !v.Snapshot {
		t.Errorf("%+v", v)
	}
	if g, err := p.Guest("web"); err != nil || len(g.Disks) != 1 {
		t.Errorf("%+v %v", g, err)
	}
}

func TestWhatHasNoNames(t *testing.T) {
	ext := make([]byte, 4096)
	ext[extMark], ext[extMark+1] = 0x53, 0xEF
	for text, want := range map[string]string{
		"": "no VDI and no VM is in it", "<database/>": "no VDI and no VM is in it", "<database><table name=\"VDI\"><row": "byte ", "what\nuuid ( RO): a\nname-label ( RW): b": "line 1",
		"conectix": "VHD", "QFI\xfb": "qcow2", string(ext): "ext file system", "\x1f\x8bno": "EOF", gzipped(poolDatabase)[:400]: "EOF",
	} {
		if err := new(Pool).Read(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}

// Whatever a source says, reading it ends, and nothing is asked of it twice.
func FuzzRead(f *testing.F) {
	for _, text := range []string{poolDatabase, vdiList, vmList, snapshotList, vbdList, "((", "<table name='VM'><row ref='((' platform=\"(('a'%.'\\\"/>"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p := &Pool{}
		if p.Read(bytes.NewReader(text)) != nil {
			return
		}
		for uuid, v := range p.VDIs() {
			if uuid == "" || v.UUID != uuid {
				t.Errorf("%q: %+v", uuid, v)
			}
		}
		for _, g := range p.Guests() {
			if g.Memory < 0 || g.VCPUs < 0 || g.Cores < 0 {
				t.Errorf("%+v", g)
			}
		}
	})
}
