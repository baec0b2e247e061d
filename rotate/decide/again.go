package decide

import (
	"errors"
	"fmt"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// A Case is what a decision is about: one domain of a world, its rule, and the time.
type Case struct {
	World   *observe.World
	Domain  *host.Domain
	Rule    *policy.Rule
	Now     time.Time
	Options Options
}

func (c Case) builder() *builder { return newBuilder(c.World, c.Domain, c.Rule, c.Now, c.Options) }

// ErrNoLonger says that somebody has come to need a layer since the merge was planned.
var ErrNoLonger = errors.New("no longer safe")

// StillAllowed decides anew whether a merge of an earlier plan may be done: hours can have
// gone by since, and somebody can have begun to use its base.
func (c Case) StillAllowed(m *Merge) error {
	if m.Adopt {
		return nil
	}
	return m.Way.allowed(c, m)
}

// stillFree sees that the layers which m takes may still go. It returns the builder, with
// the world without them, and the merge as it would be planned now, as a commit.
func (c Case) stillFree(m *Merge) (*builder, *Merge, error) {
	b, disk, err := c.stillThere(m)
	if err != nil {
		return nil, nil, err
	}
	base := disk.Index(m.Base.Path)
	again := b.mergeAt(disk, base+1)
	for range m.Gone {
		if why := b.obstacle(disk, base+1); why != "" {
			return nil, nil, fmt.Errorf("%w: %s", ErrNoLonger, why)
		}
		b.absorb(disk, base+1, &again)
	}
	return b, &again, nil
}

// stillThere sees that the domain is not refused, and finds the disk of the merge.
func (c Case) stillThere(m *Merge) (*builder, *host.Disk, error) {
	b := c.builder()
	if b.checkDomain(); len(b.plan.Refused) > 0 {
		return nil, nil, fmt.Errorf("refused meanwhile: %s", b.plan.Refused[0].Detail)
	}
	disk := b.diskFor(m)
	if disk == nil {
		return nil, nil, errors.New("the layers are gone")
	}
	return b, disk, nil
}

// stillRoom sees that there is room for it.
func (b *builder) stillRoom(m *Merge) error {
	switch r := b.preflight([]Merge{*m}); {
	case r == nil:
	case r.Code == host.CodeHosts, r.Code == host.CodeLocalLocks:
		return fmt.Errorf("%w: %s", ErrNoLonger, r.Detail)
	default:
		return errors.New(r.Detail)
	}
	return nil
}

// StartChain is the chain that the domain is to start from on a disk whose running guest
// libvirt has on another one; nil where it is on none of those.
func (c Case) StartChain(target string) []host.Layer { return c.builder().startChain(target) }

// Fixes returns what the metadata of each snapshot that is not as it should be has to say.
func (c Case) Fixes() map[string]host.SnapshotFix { return fixes(c.World, c.Domain, c.Rule) }

// MayDelete tells what speaks against deleting the file that an intent names, nil if
// nothing does. It returns the file with the inode that was seen; there tells whether
// there is one at all.
func MayDelete(w *observe.World, d *host.Domain, f journal.File) (exactly journal.File, there bool, err error) {
	left, there := w.Left[f.Path]
	if !there {
		return f, false, nil
	}
	b := &builder{w: w, d: d, forest: w.Forest, disks: d.Disks, branches: d.Branches}
	switch who := b.usedElsewhere(f.Path, left.ID); {
	case shareInDoubt(w, f.Path) != nil:
		return f, true, errors.New("it stays for now: " + shareInDoubt(w, f.Path).Problem)
	case b.inChain(f.Path):
		return f, true, errors.New("it is in a chain of the domain")
	case who != "":
		return f, true, fmt.Errorf("it is used by %s", who)
	case w.FileElsewhere(f.Path, d) != "":
		return f, true, fmt.Errorf("it belongs to %s", w.FileElsewhere(f.Path, d))
	case d.FileOwner(f.Path) != "":
		return f, true, fmt.Errorf("it belongs to snapshot %s", d.FileOwner(f.Path))
	case left.InUse:
		return f, true, errors.New("a process has it open")
	case f.WrittenSince(left):
		return f, true, errors.New("it was written to after it was merged: a guest was started from it meanwhile; see docs/recovery.md")
	case f.ID == host.FileID{} && !left.Blank:
		return f, true, errors.New("it holds data, and the intent does not name its inode")
	case f.ID == host.FileID{}:
		f.ID = left.ID
	}
	return f, true, nil
}
