package libvirthost

import (
	"reflect"
	"testing"
)

// The answer is QEMU 7.2's, cut to what is read.
func TestReadQueryBlock(t *testing.T) {
	const answer = `{"return":[
 {"device":"","qdev":"ide0-0-0","inserted":{"image":{"filename":"/i/s1.qcow2","format":"qcow2","backing-image":{"filename":"/i/base.qcow2","format":"qcow2"}}}},
 {"device":"","qdev":"/machine/peripheral/virtio-disk25/virtio-backend","inserted":{"image":{"filename":"/i/boot","format":"raw"}}},
 {"device":"","qdev":"ide0-0-1"},
 {"device":"floppy0","type":"unknown"}],"id":"libvirt-1"}`
	have, err := readQueryBlock(answer, map[string]string{"ide0-0-0": "vda", "virtio-disk25": "vdz", "ide0-0-1": "hdc"})
	want := map[string][]string{"vda": {"/i/base.qcow2", "/i/s1.qcow2"}, "vdz": {"/i/boot"}}
	if err != nil || !reflect.DeepEqual(have, want) {
		t.Errorf("%v, %v, want %v", have, err, want)
	}
	if _, err := readQueryBlock("no JSON", nil); err == nil {
		t.Error("no error")
	}
}
