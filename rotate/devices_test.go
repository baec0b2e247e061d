package rotate

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/blockid"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/coord"
	"github.com/virt-rotate/virt-rotate/rotate/coord/coordtest"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// onDevices makes the image web.qcow2 a block device, which each host sees on these disks. The hosts have a directory
// together in which no image lies or, with a store, nothing.
func (p *pair) onDevices(store coord.Store, disks ...string) {
	info, err := vfs.Stat(p.h[0].Img("web.qcow2"))
	hosttest.Must(err)
	device := host.LayerKey(info.ID, "")
	for i, r := range p.r {
		f := r.Observer.Fleet
		f.Shared, f.Store = nil, store
		if store == nil {
			f.Shared = []string{filepath.Join(p.h[0].Dir, "cluster")}
			hosttest.Must(os.MkdirAll(f.Shared[0], 0o700))
		}
		f.Visible = func() []string { return []string{disks[i]} }
		r.Observer.Probes.Device = func(key string) (d blockid.Device) {
			if key == device {
				d = blockid.Device{Name: "lvm:a/b", On: []string{disks[i]}}
			}
			return d
		}
	}
}

// A layer that is a block device is kept for guests of other hosts that see it, also if the hosts have nothing else together.
func TestABlockDeviceThatAnotherHostUsesIsKept(t *testing.T) {
	for _, state := range []host.State{host.Running, host.ShutOff} {
		p, web := newPair(t, 9, 10, 11)
		web.State = state
		p.clone("web.qcow2")
		p.onDevices(&coordtest.Memory{}, "wwn:1", "wwn:1")
		p.run(t, 1)
		planned := planOf(p.h[0], t, p.r[0], "web")
		ran := p.run(t, 0)["web"]
		told := ""
		for _, s := range ran.Steps {
			told += s.Reason
		}
		if merges(ran) > 0 || merges(planned) > 0 || !strings.Contains(told, "host2") {
			t.Errorf("%s: planned %v, did %v", state, planned.Steps, ran.Steps)
		}
		p.check(t)
	}
}

// Where nothing of a silent host's disks is here, nothing is waited for; where it is, all is.
func TestAHostThatSeesTheDiskHasToBeHeard(t *testing.T) {
	for sees, merged := range map[string]int{"wwn:1": 0, "wwn:2": 1} {
		p, _ := newPair(t, 9, 10, 11)
		own := p.h[1].Add("other")
		p.h[1].Disk(own, "vda", "own.qcow2")
		p.onDevices(nil, "wwn:1", sees)
		p.h[1].Disk(own, "vdb", p.shared("cluster/iso.qcow2"))
		p.run(t, 1)
		p.h[0].Now = p.h[0].Now.Add(8 * 24 * time.Hour)
		planned := planOf(p.h[0], t, p.r[0], "web")
		ran := p.run(t, 0)["web"]
		if merges(ran) != merged || refusedWith(ran, host.CodeHosts) != (merged == 0) || refusedWith(planned, host.CodeHosts) != (merged == 0) {
			t.Errorf("%s: planned %+v, ran %+v", sees, planned, ran)
		}
		p.check(t)
	}
}

// Two guests with one UUID are two, where neither host sees the other's disks: a copied host, or one that stands in.
func TestAGuestOnDisksOfItsOwnIsNobodyElses(t *testing.T) {
	for sees, refused := range map[string]bool{"wwn:1": true, "wwn:2": false} {
		p, web := newPair(t, 9, 10, 11)
		web.State = host.ShutOff
		p.onDevices(&coordtest.Memory{}, "wwn:1", "wwn:1")
		p.run(t, 0)
		p.as(web)
		p.onDevices(p.r[0].Observer.Fleet.Store, "wwn:1", sees)
		ran := p.run(t, 1)["web"]
		if refusedWith(ran, host.CodeElsewhere) != refused {
			t.Errorf("%s: %+v", sees, ran)
		}
		p.h[1].Guests = slices.DeleteFunc(p.h[1].Guests, func(d *hosttest.Domain) bool { return d.UUID == web.UUID })
		p.run(t, 1)
		p.worksOn(t, 0)
	}
}
