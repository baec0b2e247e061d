package guest

import (
	"reflect"
	"testing"
)

func TestSnapshotsOfABatchAreToldApart(t *testing.T) {
	const text = `<domainsnapshot><name>a</name><state>shutoff</state><creationTime>1</creationTime>
<disks><disk name='vdz' snapshot='no'/><disk name='vda' snapshot='external' type='file'>
<driver type='qcow2'/><source file='/i/a.qcow2'/></disk></disks></domainsnapshot>


<domainsnapshot><name>b</name><state>disk-snapshot</state><creationTime>2</creationTime>
<parent><name>a</name></parent>
<disks><disk name='vda' snapshot='external' type='block'>
<driver type='qcow2'/><source dev='/dev/b'/></disk></disks><domain><devices><disk type='file'>
<driver name='qemu' type='raw'/><source file='/i/was.raw'/><target dev='vda'/></disk></devices></domain></domainsnapshot>

`
	want := []Snapshot{
		{Name: "a", State: "shutoff", Created: 1, Disks: []SnapshotDisk{{Target: "vda", Overlay: "/i/a.qcow2", Format: "qcow2"}}},
		{Name: "b", Parent: "a", State: "disk-snapshot", Created: 2, Disks: []SnapshotDisk{{"vda", "/dev/b", "qcow2", "/i/was.raw", "raw"}}},
	}
	if got, err := parseSnapshots(text); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}
