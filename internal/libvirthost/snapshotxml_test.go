package libvirthost

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

func testdata(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// chainOf is a chain of files, base first; a path under /dev is a raw device, .raw a raw file.
func chainOf(paths ...string) []host.Layer {
	var layers []host.Layer
	for _, p := range paths {
		l := host.Layer{Path: p, Kind: "file", Format: "qcow2"}
		if strings.HasPrefix(p, "/dev/") {
			l.Kind, l.Format = "block", "raw"
		}
		if strings.HasSuffix(p, ".raw") {
			l.Format = "raw"
		}
		layers = append(layers, l)
	}
	return layers
}

// flat lists the elements of a document with path, attributes and text. Of
// disks whose target is among fixed it leaves out what describes the chain.
func flat(t *testing.T, text string, fixed ...string) []string {
	t.Helper()
	var lines, path []string
	disk := -1 // where the disk that is read begins in lines
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			slices.Sort(lines)
			return lines
		}
		if err != nil {
			t.Fatal(err)
		}
		switch e := token.(type) {
		case xml.StartElement:
			path = append(path, e.Name.Local)
			attrs := []string{}
			for _, a := range e.Attr {
				if a.Name.Space != "xmlns" && a.Name.Local != "xmlns" {
					value := a.Value
					if n, err := strconv.ParseInt(value, 0, 64); err == nil {
						value = strconv.FormatInt(n, 10) // 0x10 is 16
					}
					attrs = append(attrs, a.Name.Local+"="+value)
				}
			}
			slices.Sort(attrs)
			lines = append(lines, strings.Join(path, "/")+" "+strings.Join(attrs, " "))
			if strings.HasSuffix(strings.Join(path, "/"), "devices/disk") {
				disk = len(lines) - 1
			}
			if e.Name.Local == "target" && len(fixed) > 0 && disk >= 0 && slices.ContainsFunc(fixed, func(f string) bool { return slices.Contains(attrs, "dev="+f) }) {
				lines = append(lines[:disk+1], slices.DeleteFunc(lines[disk+1:], func(l string) bool {
					return strings.Contains(l, "disk/source") || strings.Contains(l, "disk/backingStore") || strings.Contains(l, "disk/driver")
				})...)
			}
		case xml.CharData:
			if s := strings.TrimSpace(string(e)); s != "" {
				lines = append(lines, strings.Join(path, "/")+": "+s)
			}
		case xml.EndElement:
			path = path[:len(path)-1]
		}
	}
}

// difference lists what only one of two documents has.
func difference(a, b []string) string {
	out := ""
	for _, l := range a {
		if !slices.Contains(b, l) {
			out += "- " + l + "\n"
		}
	}
	for _, l := range b {
		if !slices.Contains(a, l) {
			out += "+ " + l + "\n"
		}
	}
	if out == "" && len(a) != len(b) {
		out = fmt.Sprintf("%d lines and %d lines", len(a), len(b))
	}
	return out
}

func TestAFixChangesTheChainAndNothingElse(t *testing.T) {
	for _, name := range []string{"running.xml", "rich.xml"} {
		text := testdata(t, name)
		fix := host.SnapshotFix{Snapshot: "s3", Chains: map[string][]host.Layer{"vda": chainOf("/srv/vm/base.qcow2", "/srv/vm/s2.qcow2")}}
		fixed, err := fixSnapshot(text, fix)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d := difference(flat(t, text, "vda"), flat(t, fixed, "vda")); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
		s, err := readSnapshot(fixed)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"/srv/vm/base.qcow2", "/srv/vm/s2.qcow2"}
		for _, sd := range s.Disks {
			if sd.Target == "vda" && (!slices.Equal(sd.State, want) || sd.Cut || sd.Overlay != "/srv/vm/s3.qcow2" ||
				sd.Inactive != nil && !slices.Equal(sd.Inactive, want)) {
				t.Errorf("%s: %+v", name, sd)
			}
		}
		again, err := fixSnapshot(fixed, fix)
		if err != nil || again != fixed {
			t.Errorf("%s: a second fix changes it: %v", name, err)
		}
	}
}

func TestAFixWithoutChainsChangesNothing(t *testing.T) {
	for _, name := range []string{"running.xml", "rich.xml"} {
		text := testdata(t, name)
		fixed, err := fixSnapshot(text, host.SnapshotFix{Snapshot: "s3"})
		if err != nil {
			t.Fatal(err)
		}
		if d := difference(flat(t, text), flat(t, fixed)); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
	}
}

func TestSecretsAreKept(t *testing.T) {
	fixed, err := fixSnapshot(testdata(t, "rich.xml"), host.SnapshotFix{Chains: map[string][]host.Layer{"vda": chainOf("/srv/vm/base.qcow2")}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`passwd="s3cr&amp;t"`, `passwdValidTo="2036-01-01T00:00:00"`, `passwd="sp1ce"`, `uuid="2a5b08e4-3dca-4ff9-9a1d-40389758d081"`,
		`"http://libvirt.org/schemas/domain/qemu/1.0"`, `cache="none"`, `discard="unmap"`, `startupPolicy="optional"`} {
		if !strings.Contains(fixed, want) {
			t.Errorf("lost: %s", want)
		}
	}
}

func TestALabelOfTheSourceIsKept(t *testing.T) {
	text := strings.Replace(testdata(t, "running.xml"), "<source file='/srv/vm/s2.qcow2'/>",
		"<source file='/srv/vm/s2.qcow2'><seclabel model='dac' relabel='no'/></source>", 1)
	for _, top := range []string{"/srv/vm/base.qcow2", "/dev/vg/base"} {
		fixed, err := fixSnapshot(text, host.SnapshotFix{Chains: map[string][]host.Layer{"vda": chainOf(top)}})
		if err != nil || strings.Count(fixed, `<seclabel model="dac" relabel="no"`) != 1 {
			t.Errorf("%v\n%s", err, fixed)
		}
	}
}

// The live configuration says where the chain ends; the persistent one leaves
// that to the images, as libvirt writes it.
func TestTheEndOfAChain(t *testing.T) {
	for _, chain := range [][]host.Layer{chainOf("/srv/vm/base.qcow2"), chainOf("/dev/vg/base", "/srv/vm/s1.qcow2")} {
		fixed, err := fixSnapshot(testdata(t, "running.xml"), host.SnapshotFix{Chains: map[string][]host.Layer{"vda": chain}})
		if err != nil {
			t.Fatal(err)
		}
		live, inactive, _ := strings.Cut(fixed, "<inactiveDomain")
		if n, m := strings.Count(live, "<backingStore></backingStore>"), strings.Count(inactive, "<backingStore></backingStore>"); n != 1 || m != 0 {
			t.Errorf("%d ends in <domain>, %d in <inactiveDomain>:\n%s", n, m, fixed)
		}
	}
}

func TestLayersOfEachKind(t *testing.T) {
	for _, chain := range [][]host.Layer{
		chainOf("/dev/vg/base", "/srv/vm/s1.qcow2"), chainOf("/srv/vm/base.raw", "/srv/vm/s1.qcow2"),
		chainOf("/dev/vg/base"), chainOf("/srv/vm/base.raw"), chainOf("/srv/vm/a & b <c>.qcow2"),
	} {
		fixed, err := fixSnapshot(testdata(t, "running.xml"), host.SnapshotFix{Chains: map[string][]host.Layer{"vda": chain}})
		if err != nil {
			t.Fatal(err)
		}
		var x storedSnapshot
		if err := xml.Unmarshal([]byte(fixed), &x); err != nil {
			t.Fatal(err)
		}
		for _, stored := range []*storedDomain{x.Domain, x.Inactive} {
			have, _ := readChain(stored.disk("vda"), nil)
			if !slices.EqualFunc(have, chain, func(a, b host.Layer) bool { return a.Path == b.Path && a.Kind == b.Kind && a.Format == b.Format }) {
				t.Errorf("have %+v, want %+v", have, chain)
			}
		}
	}
}

// What a newer libvirt has added is written back as it was.
func TestWhatIsNotKnownIsCarriedOver(t *testing.T) {
	text := testdata(t, "running.xml")
	fix := host.SnapshotFix{Chains: map[string][]host.Layer{"vda": chainOf("/srv/vm/base.qcow2")}}
	const source = "<source file='/srv/vm/s2.qcow2'"
	for name, c := range map[string]struct{ before, after string }{
		"reverted":        {"</domainsnapshot>", "<revertDisks><disk name='vda' snapshot='external' type='file'><driver type='qcow2'/><source file='/srv/vm/s2.1764300000'/></disk></revertDisks></domainsnapshot>"},
		"device":          {"</devices>", "<quantum model='q1'>spin &amp; charm</quantum></devices>"},
		"within a device": {"<audio id='1' type='none'/>", "<audio id='1' type='none'><novelty/></audio>"},
		"attribute":       {"<audio id='1' type='none'/>", "<audio id='1' type='none' era='new'/>"},
		"of the driver":   {"<driver name='qemu' type='qcow2'/>", "<driver name='qemu' type='qcow2' swiftness='high'/>"},
		"namespace":       {"</domain>", "<u:thing xmlns:u='http://example.org/u' u:a='1'><u:part/></u:thing></domain>"},
		"metadata":        {"</uuid>", "</uuid><metadata><m:x xmlns:m='http://example.org/m'><m:y>1</m:y></m:x></metadata>"},
		"of the source":   {source, source + " speed='7'"},
	} {
		changed := strings.Replace(text, c.before, c.after, 1)
		if changed == text {
			t.Fatalf("%s: nothing was changed", name)
		}
		fixed, err := fixSnapshot(changed, fix)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if d := difference(flat(t, changed, "vda"), flat(t, fixed, "vda")); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
		for _, word := range []string{"swiftness", "speed"} {
			if strings.Count(changed, word) != strings.Count(fixed, word) {
				t.Errorf("%s:\n%s", name, fixed)
			}
		}
		if again, err := fixSnapshot(fixed, fix); err != nil || again != fixed {
			t.Errorf("%s: a second fix changes it: %v", name, err)
		}
		s, err := readSnapshot(fixed)
		if want := map[bool]string{true: "/srv/vm/s2.1764300000"}[name == "reverted"]; err != nil || s.Disks[0].Reverted != want {
			t.Errorf("%s: %+v, %v", name, s.Disks, err)
		}
	}
}

func TestWhatIsNoSnapshotIsRefused(t *testing.T) {
	fix := host.SnapshotFix{Chains: map[string][]host.Layer{"vda": chainOf("/srv/vm/base.qcow2")}}
	for _, broken := range []string{"", "<domainsnapshot>", "<domain/>"} {
		if _, err := fixSnapshot(broken, fix); err == nil {
			t.Errorf("%q was taken", broken)
		}
	}
}

func TestReadSnapshot(t *testing.T) {
	s, err := readSnapshot(testdata(t, "rich.xml"))
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "s3" || s.Parent != "s2" || s.Description != "Taken by virt-rotate (policy nightly)" || s.Internal || !s.Ours() || s.Time.Location() == nil || s.Time.Before(time.Unix(1, 0)) {
		t.Errorf("%+v", s)
	}
	want := map[string]host.SnapshotDisk{
		"vda": {Overlay: "/srv/vm/s3.qcow2", State: []string{"/srv/vm/s2.qcow2"}, Cut: true}, // it does not run
		"vdb": {State: []string{"/srv/vm/raw.img"}},
		"vdc": {State: []string{"/dev/loop0"}},
		"vde": {State: []string{"rbd:pool/image"}},
		"vdf": {State: []string{"default/vol.img"}},
		"sda": {State: []string{"/srv/vm/cd.iso"}},
		"sdb": {State: nil, Cut: true},
	}
	for _, sd := range s.Disks {
		w := want[sd.Target]
		if sd.Overlay != w.Overlay || !slices.Equal(sd.State, w.State) || sd.Cut != w.Cut {
			t.Errorf("%s: %+v, want %+v", sd.Target, sd, w)
		}
		delete(want, sd.Target)
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
}

func TestReadSnapshotTellsInternalOnes(t *testing.T) {
	base := `<domainsnapshot><name>i</name><creationTime>7</creationTime>%s</domainsnapshot>`
	for inside, internal := range map[string]bool{
		`<memory snapshot='internal'/>`:                         true,
		`<memory snapshot='external' file='/m'/>`:               false,
		`<disks><disk name='vda' snapshot='internal'/></disks>`: true,
		`<disks><disk name='vda' snapshot='no'/></disks>`:       false,
		`<memory snapshot='no'/><disks><disk name='vda' snapshot='external' type='file'><source file='/o'/></disk></disks>`: false,
	} {
		s, err := readSnapshot(fmt.Sprintf(base, inside))
		if err != nil || s.Internal != internal || s.Time.Unix() != 7 {
			t.Errorf("%s: %+v, %v", inside, s, err)
		}
	}
	if _, err := readSnapshot(`<domainsnapshot><name>i</name><creationTime>soon</creationTime></domainsnapshot>`); err == nil || !strings.Contains(err.Error(), "soon") {
		t.Errorf("%v", err)
	}
}

func TestSnapshotXMLNamesEveryDisk(t *testing.T) {
	text, err := snapshotXML(host.SnapshotSpec{Name: "n", Description: "d & <d>",
		Overlays: map[string]string{"vdb": "/o/b", "vda": "/o/a & <a>"}, Exclude: []string{"vdc", "sda"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"domainsnapshot ", "domainsnapshot/description ", "domainsnapshot/description: d & <d>", "domainsnapshot/disks ",
		"domainsnapshot/disks/disk name=sda snapshot=no", "domainsnapshot/disks/disk name=vdc snapshot=no",
		"domainsnapshot/disks/disk name=vda snapshot=external type=file", "domainsnapshot/disks/disk name=vdb snapshot=external type=file",
		"domainsnapshot/disks/disk/driver type=qcow2", "domainsnapshot/disks/disk/driver type=qcow2",
		"domainsnapshot/disks/disk/source file=/o/a & <a>", "domainsnapshot/disks/disk/source file=/o/b",
		"domainsnapshot/memory snapshot=no", "domainsnapshot/name ", "domainsnapshot/name: n",
	}
	slices.Sort(want)
	if d := difference(want, flat(t, text)); d != "" {
		t.Error(d)
	}
}

// readSnapshot is what a look makes of a snapshot's XML.
func readSnapshot(text string) (host.Snapshot, error) {
	s, err := nameSnapshot(text)
	if err != nil {
		return host.Snapshot{}, err
	}
	return s.at(nil), nil
}
