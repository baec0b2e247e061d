package libvirthost

import (
	"fmt"
	"strings"
	"testing"
)

// snapshotOf is the metadata of an external snapshot of disks, in a domain with those of has.
func snapshotOf(name string, disks, has []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "<domainsnapshot><name>%s</name><state>running</state><disks>", name)
	for _, d := range disks {
		fmt.Fprintf(&b, "<disk name='%[1]s' snapshot='external' type='file'><driver type='qcow2'/><source file='/%[1]s.%[2]s'/></disk>", d, name)
	}
	b.WriteString("</disks><domain type='kvm'><name>web</name><devices>")
	for _, d := range has {
		fmt.Fprintf(&b, "<disk type='file' device='disk'><source file='/%[1]s'/><target dev='%[1]s' bus='virtio'/></disk>", d)
	}
	return b.String() + "</devices></domain></domainsnapshot>"
}

func TestDisksThatADescendantLacksAreLeftOutOfASnapshotThatGoes(t *testing.T) {
	both := []string{"vda", "vdb"}
	going := snapshotOf("s1", both, both)
	for _, c := range []struct {
		name  string
		above []string
		left  string // what is left of the snapshot's disks; "" where it is not changed
	}{
		{"nobody above it", nil, ""},
		{"all have all", []string{snapshotOf("s2", both, both), snapshotOf("s3", both[:1], both)}, ""},
		{"the next one lacks a disk", []string{snapshotOf("s2", both[:1], both[:1])}, "vda"},
		{"a later one does", []string{snapshotOf("s2", both, both), snapshotOf("s3", both[1:], both[1:])}, "vdb"},
		{"each lacks one", []string{snapshotOf("s2", both[:1], both[:1]), snapshotOf("s3", both[1:], both[1:])}, "none"},
	} {
		fixed, err := leaveOutDisks(going, c.above)
		if err != nil || (fixed == "") != (c.left == "") {
			t.Errorf("%s: %v, %q", c.name, err, fixed)
			continue
		}
		for _, d := range both {
			if has := strings.Contains(fixed, "/"+d+".s1"); fixed != "" && has != (c.left == d) {
				t.Errorf("%s: %s is in it: %t\n%s", c.name, d, has, fixed)
			}
		}
	}
}

func TestASnapshotThatIsNotUnderstoodIsNotChanged(t *testing.T) {
	going := strings.Replace(snapshotOf("s1", []string{"vdb"}, []string{"vdb"}), "<devices>", "<novelty/><devices>", 1)
	if fixed, err := leaveOutDisks(going, []string{snapshotOf("s2", nil, nil)}); err == nil || fixed != "" || !strings.Contains(err.Error(), "novelty") {
		t.Errorf("%q, %v", fixed, err)
	}
}
