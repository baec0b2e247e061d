package libvirthost

import (
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// plainGuest is what virt-install makes, with what goes in the place of MORE among the devices
// and of TOP beside them.
const plainGuest = `<domain type='kvm'>
  <name>web</name><uuid>11111111-2222-3333-4444-555555555555</uuid>
  <metadata><x:y xmlns:x='urn:of-somebody' file='/etc/passwd'/></metadata>
  <memory unit='KiB'>1048576</memory><vcpu>2</vcpu>
  <resource><partition>/machine</partition></resource>
  <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os>
  <features><acpi/></features><cpu mode='host-model'/><clock offset='utc'/>
  <seclabel type='dynamic' model='dac' relabel='yes'><label>+0:+0</label></seclabel>TOP
  <devices>
    <emulator>/usr/libexec/qemu-kvm</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='vda.qcow2'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='cdrom'><source file='/srv/install.iso'/><target dev='sda' bus='sata'/><readonly/></disk>
    <controller type='usb' index='0' model='qemu-xhci'/>
    <interface type='network'><mac address='52:54:00:AA:bb:cc'/><source network='default'/><model type='virtio'/></interface>
    <interface type='bridge'><mac address='52:54:00:aa:bb:cd'/><source bridge='br0'/></interface>
    <serial type='pty'><source path='/dev/pts/3'/><target port='0'/></serial>
    <console type='pty' tty='/dev/pts/3'><source path='/dev/pts/3'/><target type='serial' port='0'/></console>
    <channel type='unix'><source mode='bind' path='/var/lib/libvirt/qemu/channel/target/domain-1-web/org.qemu.guest_agent.0'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <input type='tablet' bus='usb'/><graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'/>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
    <audio id='1' type='none'/><video><model type='virtio'/></video><memballoon model='virtio'/>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>MORE
  </devices>
</domain>`

func guestWith(top, more string) string {
	return strings.NewReplacer("TOP", top, "MORE", more).Replace(plainGuest)
}

func imported(t *testing.T, text string, change func(*Import)) Imported {
	t.Helper()
	i := Import{Name: "new", UUID: "99999999-2222-3333-4444-555555555555", NewUUID: true,
		Disks:   map[string]host.Layer{"vda": {Path: "/images/new-vda.qcow2", Kind: host.KindFile, Format: "qcow2"}},
		Machine: Machine{Emulator: "/usr/bin/qemu-system-x86_64", Loaders: []string{"/usr/share/OVMF/OVMF_CODE_4M.fd"}}}
	if change != nil {
		change(&i)
	}
	out, err := ImportedXML(text, i)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func consents(touches []Touch) (all []string) {
	for _, t := range touches {
		if t.Consent {
			all = append(all, t.Where+": "+t.What)
		}
	}
	return all
}

func TestAPlainGuestNeedsNoConsent(t *testing.T) {
	out := imported(t, guestWith("", ""), nil)
	if c := consents(out.Touches); len(c) > 0 {
		t.Errorf("it wants consent for %q", c)
	}
	for _, want := range []string{"<name>new</name>", "<uuid>99999999-2222-3333-4444-555555555555</uuid>", `<source file="/images/new-vda.qcow2">`, `urn:of-somebody`, `network="default"`} {
		if !strings.Contains(out.XML, want) {
			t.Errorf("no %q in %s", want, out.XML)
		}
	}
	for _, gone := range []string{"install.iso", "/usr/libexec", "/dev/pts", "domain-1-web", "+0:+0", "11111111"} {
		if strings.Contains(out.XML, gone) {
			t.Errorf("%q is in %s", gone, out.XML)
		}
	}
	if len(out.MACs) != 2 || out.MACs[0] != "52:54:00:aa:bb:cc" {
		t.Errorf("MACs %q", out.MACs)
	}
	if notes := strings.Join(out.Notes, "\n"); !strings.Contains(notes, "drives are empty") || !strings.Contains(notes, "emulator") {
		t.Errorf("notes %q", notes)
	}
	if out := imported(t, guestWith("", ""), func(i *Import) { i.NewMACs = true }); len(out.MACs) > 0 {
		t.Errorf("old MACs %q", out.MACs)
	}
	if out := imported(t, guestWith("", ""), func(i *Import) { i.Trust = true }); !strings.Contains(out.XML, "install.iso") || len(consents(out.Touches)) != 1 {
		t.Errorf("trusted: %v", out)
	}
}

// What a configuration names of the host is listed, however it is written.
func TestWhatTouchesTheHostWantsConsent(t *testing.T) {
	for name, c := range map[string][2]string{
		"PCI device":              {"", `<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0' bus='1' slot='0' function='0'/></source></hostdev>`},
		"directory":               {"", `<filesystem type='mount'><source dir='/etc'/><target dir='x'/></filesystem>`},
		"file as a disk":          {"", `<disk type='file' device='disk'><source file='/etc/shadow'/><target dev='vdb'/></disk>`},
		"relative file":           {"", `<disk type='file' device='disk'><source file='etc/shadow'/><target dev='vdb'/></disk>`},
		"device as a disk":        {"", `<disk type='block' device='lun'><source dev='/dev/sda'/><target dev='sdb'/></disk>`},
		"volume as a disk":        {"", `<disk type='volume' device='disk'><source pool='default' volume='other.qcow2'/><target dev='vdb'/></disk>`},
		"network disk":            {"", `<disk type='network' device='disk'><source protocol='nbd' name='x'/><target dev='vdb'/></disk>`},
		"serial to a file":        {"", `<serial type='file'><source path='/root/.ssh/authorized_keys'/></serial>`},
		"serial to a relative":    {"", `<serial type='file'><source path='root/.ssh/authorized_keys'/></serial>`},
		"log of a pty":            {"", `<console type='pty'><log file='/etc/cron.d/x' append='on'/></console>`},
		"serial to a port":        {"", `<serial type='tcp'><source mode='bind' host='0.0.0.0' service='4555'/></serial>`},
		"socket of the host":      {"", `<channel type='unix'><source mode='connect' path='/run/docker.sock'/><target type='virtio' name='x'/></channel>`},
		"socket by a way up":      {"", `<channel type='unix'><source mode='bind' path='/var/lib/libvirt/qemu/channel/../../../../../run/x'/><target type='virtio' name='x'/></channel>`},
		"device of the host":      {"", `<channel type='dev'><source path='/dev/ttyS0'/><target type='virtio' name='x'/></channel>`},
		"macvtap":                 {"", `<interface type='direct'><source dev='eth0' mode='bridge'/></interface>`},
		"script of an interface":  {"", `<interface type='bridge'><source bridge='br0'/><script path='/tmp/evil'/></interface>`},
		"relative script":         {"", `<interface type='bridge'><source bridge='br0'/><script path='evil'/></interface>`},
		"ethernet":                {"", `<interface type='ethernet'><target dev='tap0'/></interface>`},
		"log of passt":            {"", `<interface type='user'><backend type='passt' logFile='etc/x'/></interface>`},
		"random from a file":      {"", `<rng model='virtio'><backend model='random'>/etc/shadow</backend></rng>`},
		"random from a daemon":    {"", `<rng model='virtio'><backend model='egd' type='udp'><source mode='bind' service='1234'/></backend></rng>`},
		"TPM of the host":         {"", `<tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>`},
		"input of the host":       {"", `<input type='evdev'><source dev='/dev/input/event0'/></input>`},
		"memory in a file":        {"", `<memory model='nvdimm'><source><path>etc/x</path></source><target><size>1</size></target></memory>`},
		"shared memory":           {"", `<shmem name='x'/>`},
		"sound of the host":       {"", `<audio id='2' type='file' path='/tmp/x'/>`},
		"smartcard":               {"", `<smartcard mode='host'/>`},
		"lock":                    {"", `<lease><lockspace>x</lockspace><key>y</key><target path='/x'/></lease>`},
		"of the future":           {"", `<portal to='host'/>`},
		"emulator twice":          {"", `<emulator>/tmp/evil</emulator>`},
		"QEMU's options":          {`<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><q:arg value='-x'/></q:commandline>`, ""},
		"QEMU's, default prefix":  {`<commandline xmlns='http://libvirt.org/schemas/domain/qemu/1.0'><arg value='-x'/></commandline>`, ""},
		"prefix of nobody":        {`<q:commandline><q:arg value='-x'/></q:commandline>`, ""},
		"kernel":                  {`<os><kernel>boot/vmlinuz</kernel></os>`, ""},
		"firmware":                {`<os><loader>/tmp/evil.fd</loader></os>`, ""},
		"ACPI table":              {`<os><acpi><table type='slic'>/etc/shadow</table></acpi></os>`, ""},
		"firmware's file":         {`<sysinfo type='fwcfg'><entry name='opt/x' file='/etc/shadow'/></sysinfo>`, ""},
		"relative firmware file":  {`<sysinfo type='fwcfg'><entry name='opt/x' file='etc/shadow'/></sysinfo>`, ""},
		"no confinement":          {`<seclabel type='none' model='apparmor'/>`, ""},
		"label of its choice":     {`<seclabel type='static' model='dac' relabel='yes'><label>root:root</label></seclabel>`, ""},
		"label of a disk":         {"", `<disk type='file' device='cdrom'><target dev='sdb'/><seclabel relabel='no'/></disk>`},
		"launch security":         {`<launchSecurity type='sev'/>`, ""},
		"bootloader":              {`<bootloader>pygrub</bootloader>`, ""},
		"of the future, at top":   {`<hooks><start>/tmp/evil</start></hooks>`, ""},
		"template of variables":   {`<os><nvram template='/etc/shadow'>/etc/passwd</nvram><varstore template='/etc/shadow' path='x'/></os>`, ""},
		"block device's settings": {`<blkiotune><device><path>/dev/sda</path><weight>500</weight></device></blkiotune>`, ""},
	} {
		text := guestWith(c[0], c[1])
		if name == "emulator twice" {
			text = strings.Replace(text, "/usr/libexec/qemu-kvm", "/usr/bin/qemu-system-x86_64", 1)
		}
		out, err := ImportedXML(text, Import{Name: "new", UUID: "99999999-2222-3333-4444-555555555555",
			Disks:   map[string]host.Layer{"vda": {Path: "/images/new-vda.qcow2", Kind: host.KindFile, Format: "qcow2"}},
			Machine: Machine{Emulator: "/usr/bin/qemu-system-x86_64"}})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(consents(out.Touches)) == 0 {
			t.Errorf("%s is let in: %v\n%s", name, out.Touches, out.XML)
		}
	}
}

func TestWhatLibvirtMakesAnewIsNotTakenOver(t *testing.T) {
	out := imported(t, guestWith(`<genid>aaaaaaaa-2222-3333-4444-555555555555</genid><sysinfo type='smbios'><system><entry name='uuid'>11111111-2222-3333-4444-555555555555</entry><entry name='serial'>7</entry></system></sysinfo>
		<os><loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader><nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>/etc/cron.d/x</nvram></os>`, ""), nil)
	if c := consents(out.Touches); len(c) > 0 {
		t.Errorf("it wants consent for %q", c)
	}
	for _, gone := range []string{"aaaaaaaa", "11111111", "cron.d"} {
		if strings.Contains(out.XML, gone) {
			t.Errorf("%q is in %s", gone, out.XML)
		}
	}
	for _, want := range []string{"<genid>", ">7<", `template="/usr/share/OVMF/OVMF_VARS_4M.fd"`} {
		if !strings.Contains(out.XML, want) {
			t.Errorf("no %q in %s", want, out.XML)
		}
	}
	if !strings.Contains(strings.Join(out.Notes, "\n"), "NVRAM") {
		t.Errorf("notes %q", out.Notes)
	}
}

func TestConfigurationsThatAreNone(t *testing.T) {
	for name, text := range map[string]string{
		"empty":               "",
		"another thing":       "<network/>",
		"two documents":       "<domain/><domain/>",
		"not closed":          "<domain>",
		"entities":            `<!DOCTYPE domain [<!ENTITY x SYSTEM "file:///etc/passwd">]><domain>&x;</domain>`,
		"instruction":         `<domain><?php x?></domain>`,
		"not UTF-8":           "<domain>\xff\xfe</domain>",
		"deep":                "<domain>" + strings.Repeat("<a>", 100) + strings.Repeat("</a>", 100) + "</domain>",
		"large":               "<domain>" + strings.Repeat(" ", maxDomainText) + "</domain>",
		"without a disk":      "<domain><devices/></domain>",
		"disk is there twice": strings.Replace(guestWith("", ""), "<controller", `<disk type='file'><source file='x'/><target dev='vda'/></disk><controller`, 1),
	} {
		out, err := ImportedXML(text, Import{Name: "new", Disks: map[string]host.Layer{"vda": {Path: "/x", Format: "qcow2"}}})
		if err == nil {
			t.Errorf("%s: %v", name, out)
		}
	}
}

func TestExportedConfigurationsLoseNothing(t *testing.T) {
	text := guestWith("<of-the-future><x y='z'/></of-the-future>", "")
	text = strings.Replace(text, `<source file='vda.qcow2'/>`, `<source pool='default' volume='web.qcow2'/><backingStore type='file'><source file='/x'/></backingStore><of-the-future/>`, 1)
	out, err := ExportedXML(text, map[string]host.Layer{"vda": {Path: "vda.raw", Format: "raw"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`<source file="vda.raw">`, `type="raw"`, `<of-the-future><x y="z">`, "install.iso", "11111111"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	if strings.Contains(out, "web.qcow2") || strings.Contains(out, "backingStore") {
		t.Errorf("the old disk is in %s", out)
	}
	disks, err := StoredDisks(out)
	if err != nil || len(disks) != 2 || disks[1] != (StoredDisk{"sda", "cdrom", true}) {
		t.Errorf("%v, %v", disks, err)
	}
}
