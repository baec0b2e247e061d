//go:build cgo

package libvirthost

import (
	"fmt"
	"testing"
)

// Disks of virtio with ioeventfd hold the guest's writes back; all others are paused for.
func TestWhichDisksTakeWritesWhileTheyAreDrained(t *testing.T) {
	for _, c := range []struct {
		bus, driver, controllers string
		want                     bool
	}{
		{bus: "virtio"},
		{bus: "virtio", driver: "ioeventfd='on'"},
		{bus: "virtio", driver: "ioeventfd='off'", want: true},
		{bus: "ide", want: true},
		{bus: "sata", want: true},
		{bus: "usb", want: true},
		{bus: "scsi", want: true},
		{bus: "scsi", controllers: "<controller type='scsi' index='0' model='virtio-scsi'/>", want: true},
		{bus: "scsi", controllers: "<controller type='scsi' index='0' model='lsilogic'/><controller type='scsi' index='1' model='virtio-scsi'/>"},
		{bus: "scsi", controllers: "<controller type='scsi' index='1' model='virtio-transitional'/>"},
		{bus: "scsi", controllers: "<controller type='virtio-serial' index='1'/><controller type='scsi' index='1' model='virtio-scsi'><driver ioeventfd='off'/></controller>", want: true},
		{bus: "scsi", controllers: "<controller type='scsi' index='1' model='lsilogic'/>", want: true},
	} {
		text := fmt.Sprintf(`<domain type='kvm'><name>web</name><devices>
			<disk type='file' device='disk'><target dev='other' bus='%s'/></disk>
			<disk type='file' device='disk'><driver name='qemu' type='qcow2' %s/><target dev='sda' bus='%s'/>
			<address type='drive' controller='1' bus='0' target='0' unit='0'/></disk>%s</devices></domain>`,
			map[bool]string{false: "ide", true: "virtio"}[c.want], c.driver, c.bus, c.controllers)
		if got, err := queuesWrites(text, "sda"); err != nil || got != c.want {
			t.Errorf("%s %s %s: %v, %v", c.bus, c.driver, c.controllers, got, err)
		}
	}
}
