package libvirthost

import (
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

const internalText = `<domainsnapshot>
  <name>before</name>
  <description>a &lt;state&gt;</description>
  <state>running</state>
  <parent><name>first</name></parent>
  <creationTime>1700000000</creationTime>
  <memory snapshot='internal'/>
  <disks>
    <disk name='vda' snapshot='internal'/>
    <disk name='vdb' snapshot='no'/>
  </disks>
  <domain type='kvm'>
    <name>web</name><uuid>11111111-2222-3333-4444-555555555555</uuid>
    <memory unit='KiB'>1024</memory>
    <newer x='1'><than>us</than></newer>
    <devices>
      <disk type='file' device='disk'>
        <driver name='qemu' type='qcow2' odd='yes'/>
        <source file='/i/web.qcow2'/>
        <backingStore/>
        <target dev='vda' bus='virtio'/>
      </disk>
      <disk type='file' device='disk'>
        <driver name='qemu' type='raw'/>
        <source file='/i/left.raw'/>
        <target dev='vdb' bus='virtio'/>
      </disk>
    </devices>
  </domain>
</domainsnapshot>`

func external() *host.External {
	return &host.External{Snapshot: "before", Parent: "first", Overlays: map[string]string{"vda": "/i/web.gen1.qcow2"},
		Chains: map[string][]host.Layer{"vda": {
			{Path: "/i/web.first.qcow2", Format: "qcow2", Kind: host.KindFile}, {Path: "/i/web.before.qcow2", Format: "qcow2", Kind: host.KindFile}}}}
}

func TestAnInternalSnapshotIsWrittenAsAnExternalOne(t *testing.T) {
	out, err := externalXML(internalText, external())
	if err != nil {
		t.Fatal(err)
	}
	s, err := readSnapshot(out)
	if err != nil || s.Internal || s.Name != "before" || s.Parent != "first" || s.Description != "a <state>" || s.Time.Unix() != 1700000000 {
		t.Fatalf("%+v %v", s, err)
	}
	sd := s.Disks[0]
	if sd.Overlay != "/i/web.gen1.qcow2" || sd.Format != "qcow2" || strings.Join(sd.State, " ") != "/i/web.first.qcow2 /i/web.before.qcow2" || s.Disks[1].Overlay != "" {
		t.Errorf("%+v", s.Disks)
	}
	for _, want := range []string{"<state>disk-snapshot</state>", `<memory snapshot="no">`, "<newer x=\"1\"><than>us</than></newer>", `odd="yes"`, "/i/left.raw"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
	off := strings.NewReplacer("<state>running", "<state>shutoff", "<memory snapshot='internal'/>", "<memory snapshot='no'/>").Replace(internalText)
	if out, err := externalXML(off, external()); err != nil || !strings.Contains(out, "<state>shutoff</state>") {
		t.Errorf("of a guest that was off: %v\n%s", err, out)
	}
}

// What would be lost, or is not known, is an error.
func TestWhatCannotBeWrittenAsAnExternalSnapshot(t *testing.T) {
	for name, text := range map[string]string{
		"another disk has a state, too": strings.Replace(internalText, "name='vdb' snapshot='no'", "name='vdb' snapshot='internal'", 1),
		"the disk is not listed":        strings.Replace(internalText, "<disk name='vda' snapshot='internal'/>", "", 1),
		"no XML":                        "<domainsnapshot>",
	} {
		if out, err := externalXML(text, external()); err == nil {
			t.Errorf("%s: %s", name, out)
		}
	}
}

func TestASnapshotThatLibvirtDidNotListIsWritten(t *testing.T) {
	e := external()
	e.New, e.Time, e.Description = true, time.Unix(1600000000, 0), `Internal snapshot "x" that libvirt did not list`
	_, domain, _ := strings.Cut(internalText, "  <domain ")
	domain, _, _ = strings.Cut("<domain "+domain, "</domainsnapshot>")
	out, err := unlistedXML(e, domain)
	if err != nil {
		t.Fatal(err)
	}
	s, err := readSnapshot(out)
	if err != nil || s.Internal || s.Parent != "first" || s.Description != e.Description || s.Time.Unix() != 1600000000 || len(s.Disks) != 2 ||
		s.Disks[0].Overlay != "/i/web.gen1.qcow2" || len(s.Disks[0].State) != 2 || s.Disks[1].Overlay != "" {
		t.Errorf("%+v %v\n%s", s, err, out)
	}
}
