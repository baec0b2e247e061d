package rotate

import "fmt"

// A guest that is off here may run on another host, and other programs open images, too.
// QEMU's image locks tell, as far as they reach; they are asked before anything is
// done, and before the metadata of a snapshot goes.

// checkWriters refuses a guest that is off while somebody writes to a layer of its disk.
func (b *builder) checkWriters(disk *Disk) {
	for i := range disk.Chain {
		if l := &disk.Chain[i]; !b.d.State.Live() && l.Use.Write {
			b.refuse(CodeInUse, l.Path, "the guest is shut off here, but a process writes to this image: it runs on another host, or another program works on it; let that end, or undefine the domain where it does not belong")
			return
		}
	}
}

// busy tells who has layers open that the engine would lock for these merges; before is
// the world without them. A merge that meets a reader is put off.
func (b *builder) busy(before *builder, merges []merge) string {
	for i := range merges {
		m := &merges[i]
		disk := before.diskFor(m)
		if !m.offline || disk == nil {
			continue
		}
		first, last := disk.index(m.Base.Path), disk.index(m.Top.Path)+1
		for k := max(first, 0); k <= last && k < len(disk.Chain); k++ {
			if l := &disk.Chain[k]; l.Use.Read || l.Use.Write {
				return fmt.Sprintf("a process has %s open, an export or another host perhaps: its merges wait until it is closed", l.Path)
			}
		}
	}
	return ""
}
