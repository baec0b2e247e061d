package libvirthost

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

const threeDisks = `<domain type='kvm'><name>old</name><memory>1024</memory><os><type>hvm</type></os><devices>
<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
<disk type='block' device='disk'><driver name='qemu' type='raw' cache='none'/><source dev='/dev/x'/><target dev='vda' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/b'/><backingStore type='file'><format type='raw'/><source file='/c'/></backingStore><target dev='vdb' bus='virtio'/></disk>
<disk type='file' device='disk'><source file='/ro'/><target dev='vdc' bus='virtio'/><readonly/></disk>
</devices></domain>`

func newDisk(target, path string) NewDisk {
	return NewDisk{target, host.Layer{Path: path, Kind: "file", Format: "qcow2"}}
}

func TestNewDisksTakeThePlacesOfOldOnes(t *testing.T) {
	for _, c := range []struct {
		disks         []NewDisk
		targets, left []string
		want          string // in the error
	}{
		{disks: []NewDisk{newDisk("", "/1")}, targets: []string{"vda"}, left: []string{"vdb"}},
		{disks: []NewDisk{newDisk("", "/1"), newDisk("", "/2")}, targets: []string{"vda", "vdb"}},
		{disks: []NewDisk{newDisk("vdb", "/1")}, targets: []string{"vdb"}, left: []string{"vda"}},
		{disks: []NewDisk{newDisk("vdb", "/1"), newDisk("vda", "/2")}, targets: []string{"vdb", "vda"}},
		{disks: []NewDisk{newDisk("vdb", "/1"), newDisk("vdb", "/2")}, want: "two disks for vdb"},
		{disks: []NewDisk{newDisk("vdc", "/1")}, want: "no writable disk vdc"},
		{disks: []NewDisk{newDisk("sda", "/1")}, want: "no writable disk sda"},
		{disks: []NewDisk{newDisk("", "/1"), newDisk("", "/2"), newDisk("", "/3")}, want: "no place for disk 3"},
	} {
		out, targets, left, err := DomainXML(threeDisks, "new", c.disks)
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v: %v", c.disks, err)
			}
			continue
		}
		if err != nil || !slices.Equal(targets, c.targets) || !slices.Equal(left, c.left) || !strings.Contains(out, "<name>new</name>") {
			t.Errorf("%v: %q, left %q, %v", c.disks, targets, left, err)
		}
		for _, d := range c.disks {
			if !strings.Contains(out, `<source file="`+d.Active.Path+`"`) {
				t.Errorf("%v: %s", c.disks, out)
			}
		}
		if targets[0] == "vda" && (strings.Contains(out, "/dev/x") || !strings.Contains(out, `cache="none"`) || !strings.Contains(out, `type="file" device="disk"`)) {
			t.Error(out)
		}
	}
}

func TestADomainThatIsNotKnownInFullIsLeftAlone(t *testing.T) {
	text := strings.Replace(threeDisks, "<devices>", "<devices><novelty x='1'/>", 1)
	if _, _, _, err := DomainXML(text, "new", []NewDisk{newDisk("", "/1")}); err == nil || !strings.Contains(err.Error(), "novelty") {
		t.Error(err)
	}
}

func TestMetadataOfASnapshotThatWasTakenElsewhere(t *testing.T) {
	s := NewSnapshot{Name: "p-1", Description: "d", Time: time.Unix(1700000000, 5), Disks: []NewState{{Disk: 1, Overlay: "/o",
		State: []host.Layer{{Path: "/base", Kind: "file", Format: "qcow2"}, {Path: "/state", Kind: "file", Format: "qcow2"}}}}}
	text, err := takenXML(s, "p-0", threeDisks, []string{"vdb", "vda"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := readSnapshot(text)
	if err != nil || got.Name != "p-1" || got.Parent != "p-0" || got.Time.Unix() != 1700000000 || got.Internal || len(got.Disks) != 4 {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, d := range got.Disks {
		if d.Target == "vda" && (d.Overlay != "/o" || !slices.Equal(d.State, []string{"/base", "/state"}) || d.Cut) || d.Target != "vda" && d.Overlay != "" {
			t.Errorf("%+v", d)
		}
	}
}
