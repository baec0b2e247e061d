package decide

import (
	"fmt"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// checkDestroyed refuses a domain with snapshots that are lost, and one whose disk builds
// on what another guest writes to: a snapshot on top would be worth nothing.
func (b *builder) checkDestroyed() {
	by := map[string][]string{}
	var first []journal.Destroyed
	for _, x := range b.w.Destroyed(b.d) {
		if by[x.Base] == nil {
			first = append(first, x)
		}
		if !slices.Contains(by[x.Base], x.Snapshot) {
			by[x.Base] = append(by[x.Base], x.Snapshot)
		}
	}
	for i := range first {
		b.refuse(host.CodeDestroyed, first[i].Base, destroyedText(&first[i], b.d.Name, by[first[i].Base]))
	}
	if len(first) == 0 {
		b.checkBases()
	}
}

func destroyedText(x *journal.Destroyed, domain string, snapshots []string) string {
	text := x.String()
	if n := len(snapshots); n > 1 {
		text = fmt.Sprintf("%s; so it is with %s: %s", text, host.Plural(n, "snapshot"), strings.Join(snapshots, ", "))
	}
	if !x.Sure {
		text += "; if the guest has not run since, put the newest layer back as its disk (virsh edit)"
	}
	return text + ". All files are kept, and none is handed out; to go on without these snapshots: " + forgetCommand(domain, snapshots...)
}

// forgetCommand gives up snapshots of a domain.
func forgetCommand(domain string, snapshots ...string) string {
	text := "virt-rotate doctor"
	for _, s := range snapshots {
		text += " --forget " + host.Quoted(s)
	}
	return text + " " + host.Quoted(domain)
}

// checkBases refuses a disk that builds on what another running guest writes to.
func (b *builder) checkBases() {
	for i := range b.disks {
		disk := &b.disks[i]
		if !b.covers(disk) {
			continue
		}
		for k := range max(len(disk.Chain)-1, 0) {
			l := b.forest.Find(disk.Chain[k].Key())
			if l == nil || !l.Active {
				continue
			}
			if other, target := b.w.LiveWriter(l); other != nil && other.Name != b.d.Name {
				b.refuse(host.CodeDestroyed, l.Path, fmt.Sprintf("%s writes to it, and %s of this domain builds on it: what is on that disk is damaged, and a snapshot would be, too; stop %s, and never start it writable while others build on its image",
					observe.DiskKeeper(other.Name, target), disk.Target, other.Name))
				break
			}
		}
	}
}

// Intact is an error if a state of the snapshot is destroyed, or if it is not certain where
// it is: it must not be handed out.
func Intact(w *observe.World, d *host.Domain, snapshot string) error {
	for _, x := range w.Destroyed(d) {
		if x.Snapshot == snapshot {
			return &DestroyedError{x, d.Name}
		}
	}
	if why := doctorsBuilder(w, d).doubtful(d.Snapshot(snapshot)); why != "" && !w.Remote {
		return &chain.RefusedError{Path: snapshot, Reason: "where its state is, is not certain: " + why + "; virt-rotate doctor " + host.Quoted(d.Name) + " tells more"}
	}
	return nil
}

// A DestroyedError says that a snapshot's state is lost.
type DestroyedError struct {
	journal.Destroyed
	Domain string
}

func (e *DestroyedError) Error() string {
	return destroyedText(&e.Destroyed, e.Domain, []string{e.Snapshot})
}
