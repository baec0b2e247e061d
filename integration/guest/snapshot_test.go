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
<driver type='qcow2'/><source dev='/dev/b'/></disk></disks></domainsnapshot>

`
	want := []Snapshot{
		{Name: "a", State: "shutoff", Created: 1, Disks: []SnapshotDisk{{"vda", "/i/a.qcow2", "qcow2"}}},
		{Name: "b", Parent: "a", State: "disk-snapshot", Created: 2, Disks: []SnapshotDisk{{"vda", "/dev/b", "qcow2"}}},
	}
	if got, err := parseSnapshots(text); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}
