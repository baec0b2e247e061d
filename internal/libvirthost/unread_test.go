package libvirthost

import (
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// unreadable is a disk of a type that nobody knows, and what it names.
const unreadable = `<disk type='odd'><source file='/in/use'/><target dev='vda'/></disk>`

// What a configuration or a snapshot names that cannot be read counts as in use.
func TestWhatCannotBeReadCountsAsInUse(t *testing.T) {
	domain := "<domain><devices>" + unreadable + "</devices></domain>"
	for name, read := range map[string]func(*host.Domain) error{
		"domain":     func(d *host.Domain) error { return readDomain(d, domain, nil) },
		"persistent": func(d *host.Domain) error { return readInactive(d, domain, nil) },
		"saved":      func(d *host.Domain) error { return readElsewhere(d, domain, nil) },
		"snapshot": func(d *host.Domain) error {
			_, err := addSnapshot(d, "<domainsnapshot><creationTime>1</creationTime>"+domain+"</domainsnapshot>", "", nil)
			return err
		},
		"time": func(d *host.Domain) error {
			_, err := addSnapshot(d, "<domainsnapshot><creationTime>x</creationTime><disks><disk name='vda' type='file'><source file='/in/use'/></disk></disks></domainsnapshot>", "", nil)
			return err
		},
	} {
		d := host.Domain{Name: "web"}
		if err := read(&d); err == nil || !slices.Equal(d.Elsewhere, []string{"/in/use"}) {
			t.Errorf("%s: %v, %v", name, d.Elsewhere, err)
		}
	}
}

func TestASnapshotThatCanBeReadIsAdded(t *testing.T) {
	d := host.Domain{}
	_, err := addSnapshot(&d, "<domainsnapshot><name>a</name><creationTime>1</creationTime></domainsnapshot>", "a", nil)
	if err != nil || len(d.Snapshots) != 1 || !d.Snapshots[0].Current || d.Elsewhere != nil {
		t.Errorf("%+v, %v", d, err)
	}
}

// A layer without a name is a problem of its disk; the others count.
func TestALayerWithoutANameIsAProblem(t *testing.T) {
	const below = `<backingStore type='file'><format type='qcow2'/><source file='/base'/><backingStore/></backingStore>`
	for text, problem := range map[string]bool{
		`<disk type='file'><driver type='qcow2'/><source file='/top'/><backingStore type='file'><source/>` + below + `</backingStore></disk>`: true,
		`<disk type='file'><driver type='qcow2'/><source/>` + below + `</disk>`:                                                               true,
		`<disk type='file'><driver type='qcow2'/><source file='/top'/>` + below + `</disk>`:                                                   false,
		`<disk type='file' device='cdrom'><driver type='raw'/><backingStore/></disk>`:                                                         false,
	} {
		x := parseDisk(t, text)
		d := readDisk(x, nil)
		if _, cut := readChain(x, nil); (d.Problem != "") != problem || problem && !cut || slices.Contains(layerPaths(d.Chain), "") {
			t.Errorf("%s: %+v, cut %v", text, d, cut)
		}
		if d.Device == "disk" && d.Chain[0].Path != "/base" {
			t.Errorf("%s: %v", text, layerPaths(d.Chain))
		}
	}
}

// Of two disks with one target in the persistent configuration, neither is forgotten.
func TestASecondDiskOfATargetIsInUse(t *testing.T) {
	d := host.Domain{Disks: []host.Disk{{Target: "vda"}}}
	const disk = `<disk type='file'><source file='%s'/><target dev='vda'/></disk>`
	err := readInactive(&d, "<domain><devices>"+strings.Replace(disk, "%s", "/a", 1)+strings.Replace(disk, "%s", "/b", 1)+"</devices></domain>", nil)
	if err != nil || !slices.Equal(d.Disks[0].Inactive, []string{"/a"}) || !slices.Equal(d.Elsewhere, []string{"/b"}) {
		t.Errorf("%+v, %v", d, err)
	}
}
