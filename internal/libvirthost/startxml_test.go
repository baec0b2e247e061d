package libvirthost

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// Libvirt must not be asked from its hook: where volumes lie is read from what it has on disk of their pools, active ones first.
func TestVolumesAreFoundOnDisk(t *testing.T) {
	active, defined := t.TempDir(), t.TempDir()
	for path, text := range map[string]string{
		filepath.Join(active, "images.xml"):  "<!-- generated -->\n<poolstate>\n<pool type='dir'>\n<name>images</name>\n<target><path>/srv/now</path></target>\n</pool>\n</poolstate>\n",
		filepath.Join(defined, "images.xml"): "<pool type='dir'><name>images</name><target><path>/srv/then</path></target></pool>",
		filepath.Join(defined, "vg.xml"):     "<!--\nWARNING: generated\n-->\n<pool type='logical'><name>vg</name><target><path>/dev/vg</path></target></pool>",
		filepath.Join(defined, "rbd.xml"):    "<pool type='rbd'><name>rbd</name><source><name>x</name></source></pool>",
		filepath.Join(defined, "other.xml"):  "<pool type='dir'><name>another</name><target><path>/srv/x</path></target></pool>",
		filepath.Join(defined, "broken.xml"): "<pool",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for pool, want := range map[string]string{
		"images": "/srv/now/web.qcow2", "vg": "/dev/vg/web.qcow2",
		"rbd": "", "other": "", "broken": "", "gone": "", "../images": "", "": "", "..": "",
	} {
		p := volumeOnDisk([]string{active, defined}, host.Volume{Pool: pool, Name: "web.qcow2"})
		if p.path != want || (p.missing == "") != (want != "") {
			t.Errorf("%q: %+v", pool, p)
		}
	}
	if p := volumeOnDisk([]string{active}, host.Volume{Pool: "images", Name: "../web"}); p.path != "" {
		t.Errorf("a name leads out of the pool: %+v", p)
	}
}

// What libvirt gives its hook is read without asking it.
func TestAStartIsReadFromItsXML(t *testing.T) {
	d, err := Starting("web", `<domain type='kvm'><name>web</name><uuid>1</uuid><devices>
<disk type='file' device='disk'><source file='/srv/a.qcow2'/><target dev='vda'/></disk>
<disk type='volume' device='disk'><source pool='no-such-pool' volume='b.qcow2'/><target dev='vdb'/></disk></devices></domain>`)
	if err != nil || d.Name != "web" || d.UUID != "1" || len(d.Disks) != 2 {
		t.Fatalf("%+v %v", d, err)
	}
	if a, b := d.Disks[0].Active(), d.Disks[1].Active(); a.Path != "/srv/a.qcow2" || b.Kind != host.KindVolume || b.Missing == "" {
		t.Errorf("%+v %+v", a, b)
	}
	if _, err := Starting("web", "<domain"); err == nil {
		t.Error("broken XML is read")
	}
}
