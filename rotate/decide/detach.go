package decide

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// A detach is a pull of all that is below a disk's own layers: these are not this domain's
// alone, and stay.
type detachWay struct{ pullWay }

func (detachWay) at(*builder, *host.Disk, int) (Merge, bool) { return Merge{}, false }

// sharedBelow returns the place of the lowest layer that is to be the disk's own: all
// below it is shared, or was there before the image that the domain was made with.
// It is 0 where the disk builds on nothing that is not its own.
func (b *builder) sharedBelow(disk *host.Disk) (own int, who string) {
	for own < len(disk.Chain)-1 && !b.isOurs(&disk.Chain[own+1]) && !b.inMetadata(disk.Chain[own+1].Path) {
		own++
	}
	if own > 0 {
		who = "the domain's own image is " + filepath.Base(disk.Chain[own].Path)
	}
	for k := range len(disk.Chain) - 1 {
		if other := b.outsider(disk, k); other != "" && k+1 >= own {
			own, who = k+1, disk.Chain[k].Path+" is used by "+other
		}
	}
	return own, who
}

// outsider returns who else than this domain, its snapshots and their branches needs
// layer k of the disk, or "".
func (b *builder) outsider(disk *host.Disk, k int) string {
	l, above := b.forest.Find(disk.Chain[k].Key()), disk.Chain[k+1].Key()
	if l == nil {
		return ""
	}
	for _, c := range l.Children {
		if c.Key != above && !b.onRecord(c.Path) {
			return c.Path
		}
	}
	for _, who := range l.Keepers {
		if !b.own(who) && !strings.HasPrefix(who, observe.SnapshotKeeper(b.d.Name, "")) {
			return who
		}
	}
	return ""
}

// onRecord tells whether a snapshot of the domain names the layer.
func (b *builder) onRecord(path string) bool {
	return slices.ContainsFunc(b.d.Snapshots, func(s host.Snapshot) bool {
		return slices.ContainsFunc(s.Disks, func(sd host.SnapshotDisk) bool {
			return sd.Overlay == path || slices.Contains(sd.State, path)
		})
	})
}

// detach plans to pull the disks off what they share with others.
func (b *builder) detach() {
	if !b.rule.Detach && !b.o.Detach {
		return
	}
	var merges []Merge
	var reasons []string
	trial := b.clone()
	for i := range trial.disks {
		disk := &trial.disks[i]
		if !trial.covers(disk) || !trial.mergeable(disk) {
			continue
		}
		if own, who := trial.sharedBelow(disk); own > 0 {
			merges = append(merges, trial.detachAt(disk, own))
			reasons = append(reasons, "detach: "+who)
		}
	}
	if len(merges) == 0 {
		return
	}
	if !b.o.Detach && !b.rule.Window.Open(b.now) {
		b.plan.putOff("merges start only within the window " + b.rule.Window.String())
		return
	}
	if why := b.busy(b, merges); why != "" {
		b.plan.putOff(why)
		return
	}
	if refused := trial.preflight(merges); refused != nil {
		b.plan.Refused = append(b.plan.Refused, *refused)
		return
	}
	end := trial.begin(Group{Merges: merges})
	for i := range merges {
		step := mergeStep(&merges[i], nil)
		step.Reason = reasons[i]
		trial.add(step)
	}
	trial.redefine(nil)
	if b.redefinesFrozen(trial) {
		b.plan.putOff(b.checkpoints())
		return
	}
	end()
	*b = *trial
}

// detachAt pulls all that is below the disk's own layers into the lowest of them; on a
// running guest into the active one.
func (b *builder) detachAt(disk *host.Disk, own int) Merge {
	if b.d.State.Live() {
		own = len(disk.Chain) - 1
	}
	m := b.pullOf(disk, 0, own)
	m.Way = detachWay{}
	b.forest.Detach(b.forest.Find(m.Top.Key()))
	b.shortenBelow(disk, 0, own, &m)
	return m
}

func (detachWay) allowed(c Case, m *Merge) error {
	b, disk, err := c.stillThere(m)
	if err != nil {
		return err
	}
	own, _ := b.sharedBelow(disk)
	if top := disk.Index(m.Top.Path); own == 0 || top < own || disk.Index(m.Base.Path) != 0 {
		return fmt.Errorf("the chain has changed: %v", host.Paths(disk.Chain))
	}
	return b.stillRoom(m)
}
