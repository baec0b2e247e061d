package decide

import (
	"fmt"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// A guest that is off here may run on another host, and other programs open images, too.
// QEMU's image locks tell, as far as they reach; they are asked before anything is
// done, and before the metadata of a snapshot goes.

// checkWriters refuses a guest that is off while somebody writes to a layer of its disk.
func (b *builder) checkWriters(disk *host.Disk) {
	for i := range disk.Chain {
		if l := &disk.Chain[i]; !b.d.State.Live() && l.Use.Write {
			b.refuse(host.CodeInUse, l.Path, "the guest is shut off here, but a process writes to this image: it runs on another host, or another program works on it; let that end, or undefine the domain where it does not belong")
			return
		}
	}
}

// busy tells who has layers open that these merges would write to or take away; before is
// the world without them. A merge that meets a reader is put off: of a running guest, as far
// as the reader is one of ours, which is on record; its QEMU would not begin the merge.
func (b *builder) busy(before *builder, merges []Merge) string {
	for i := range merges {
		m := &merges[i]
		if why := b.read(m); why != "" {
			return why
		}
		disk := before.diskFor(m)
		if !m.Offline || disk == nil {
			continue
		}
		first, last := disk.Index(m.Base.Path), disk.Index(m.Top.Path)+1
		for k := max(first, 0); k <= last && k < len(disk.Chain); k++ {
			if l := &disk.Chain[k]; l.Use.Read || l.Use.Write {
				return fmt.Sprintf("a process has %s open, an export or another host perhaps: its merges wait until it is closed", l.Path)
			}
		}
	}
	return ""
}

// read tells which program of ours reads one of the layers.
func (b *builder) read(m *Merge) string { return m.read(b.w, b.origin) }

// Read tells which program of ours reads a layer that the merge would change or take away; ""
// for none that is on record.
func (m *Merge) Read(w *observe.World) string {
	return m.read(w, func(path string) string { return path })
}

func (m *Merge) read(w *observe.World, origin func(string) string) string {
	for _, l := range append([]host.Layer{m.Base, m.Top}, m.Gone...) {
		for i := range w.Readers {
			if r := &w.Readers[i]; r.Reads(origin(l.Path), l.ID) {
				return fmt.Sprintf("%s is being read by %s: its merges wait until that ends", origin(l.Path), r)
			}
		}
	}
	return ""
}

// checkLocks refuses a merge where locks do not reach other hosts: one of them may have
// the layers open, and nothing would tell; unless all of them ask before they start a guest.
func (b *builder) checkLocks(m *Merge) *Refusal {
	for _, l := range append([]host.Layer{m.Base, m.Top}, m.Gone...) {
		if why := b.w.LocalLocks[filepath.Dir(l.Path)]; why != "" && !b.w.Asked(b.origin(l.Path)) {
			return &Refusal{host.CodeLocalLocks, l.Path, "nothing is merged there: " + why + ", so other hosts do not see the locks on images, and this one not theirs; mount it with locks" + orAsk(b.w, b.origin(l.Path))}
		}
	}
	return nil
}

// orAsk is what else lets merges go on in the storage of a layer.
func orAsk(w *observe.World, path string) string {
	for _, i := range w.OnShares[path] {
		if s := &w.Shares[i]; !s.Asked {
			return s.OrAsk()
		}
	}
	return ""
}
