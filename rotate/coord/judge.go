package coord

import (
	"fmt"
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// A Verdict says whether this host may work on a guest.
type Verdict struct {
	Epoch  uint64 `json:"epoch"`            // with which it is, or will be, this host's; 0: it is not
	Why    string `json:"why,omitempty"`    // it is not, in words
	Remedy string `json:"remedy,omitempty"` // what makes it so
	Gone   bool   `json:"gone,omitempty"`   // the definition here is an old one: the guest is another host's
	By     string `json:"by,omitempty"`     // that host
}

// Judge says whose a guest is. The owner is who claims it with the highest epoch; a host that
// does not have the guest any more keeps saying so, with its epoch, so that an older claim does
// not come back to life. A guest that no other host has claimed is this host's.
//
//   - Another owner that has given the guest up is followed by one that never had it, and by
//     one that runs it.
//   - One that has it still, but off, is followed by a host that runs it, if that runs it
//     where the owner left it: live migration leaves such definitions behind.
//   - Else somebody has to say so: Adopt.
func Judge(me *Guest, v *View) Verdict {
	var mine uint64
	if g := v.Mine.Guest(me.UUID); g != nil {
		mine = g.Epoch
	}
	for i := range v.Peers {
		// What was told before this host has taken the guest over does not count.
		if g := v.Peers[i].Told.Guest(me.UUID); g != nil && g.Live && g.Seen >= mine {
			return Verdict{By: v.Peers[i].Name, Why: runsThere(&v.Peers[i], me), Gone: !me.Live,
				Remedy: runsThereRemedy(v.Peers[i].Name, me)}
		}
	}
	p, g := highest(me.UUID, v)
	switch {
	case g == nil, mine > g.Epoch:
		return Verdict{Epoch: max(mine, 1)}
	case g.Left && (mine == 0 || me.Live):
		return Verdict{Epoch: g.Epoch + 1}
	case me.Live && !g.Left && mine < g.Epoch && onTop(me, g, p.Inodes):
		return Verdict{Epoch: g.Epoch + 1}
	}
	return Verdict{By: p.Name, Why: ownedBy(p, g, mine), Gone: mine < g.Epoch,
		Remedy: fmt.Sprintf("if its definition here is the one that counts: virt-rotate adopt %s; if not, undefine it here", host.Quoted(me.Name))}
}

// Adopt says whether a person's word can make the guest this host's: not from a definition
// that is older than what the owner had, nor where another host has told that it runs it,
// unless the person says that this host is down. What was merged does not count: layers that the guest wrote to, and whose
// data is in the layer that it writes to by the definition here.
func Adopt(me *Guest, v *View, down string, merged []Layer) (epoch uint64, err error) {
	verdict := Judge(me, v)
	if verdict.Epoch > 0 {
		return verdict.Epoch, nil
	}
	for i := range v.Peers {
		p := &v.Peers[i]
		g := p.Told.Guest(me.UUID)
		switch {
		case p.worksOn(me.UUID) && p.Name != down && p.ID != down:
			return 0, fmt.Errorf("host %s is about to merge layers of it: let virt-rotate run there to its end; if that host is down: --down %s", p.Name, host.Quoted(p.Name))
		case g == nil, g.Left:
		case g.Live && p.Name != down && p.ID != down:
			return 0, fmt.Errorf("host %s has told at %s that the guest runs there: let virt-rotate run there once it does not; if that host is down and stays so until it is known what it may start: --down %s", p.Name, stamp(p.When), p.Name)
		case g.Epoch >= Seen(me.UUID, v):
			if l := lacking(me, g, p.Inodes, merged...); l != nil {
				return 0, fmt.Errorf("the definition here is an old one: on host %s the guest wrote to %q, which is in no chain of it here", p.Name, l.Path)
			}
		}
	}
	return Seen(me.UUID, v) + 1, nil
}

// Seen is the highest epoch that is on record of the guest.
func Seen(uuid string, v *View) uint64 {
	seen := before(uuid, v)
	for i := range v.Peers {
		if g := v.Peers[i].Told.Guest(uuid); g != nil {
			seen = max(seen, g.Epoch, g.Seen)
		}
	}
	return seen
}

// highest is the strongest claim of another host; nil where there is none.
func highest(uuid string, v *View) (*Peer, *Guest) {
	var owner *Peer
	var best *Guest
	for i := range v.Peers {
		g := v.Peers[i].Told.Guest(uuid)
		if g == nil || g.Epoch == 0 {
			continue
		}
		if best == nil || g.Epoch > best.Epoch {
			owner, best = &v.Peers[i], g
		}
	}
	return owner, best
}

// onTop tells whether all layers that the other's disks wrote to are in a chain of this guest's.
func onTop(me, other *Guest, inodes bool) bool { return lacking(me, other, inodes) == nil }

// lacking is the first layer that the other's disks wrote to and that no chain of this guest's has, but for those
// that were merged.
func lacking(me, other *Guest, inodes bool, merged ...Layer) *Layer {
	for i := range other.Layers {
		l := &other.Layers[i]
		same := func(m Layer) bool { return m.Same(*l, inodes) }
		if l.Active && !slices.ContainsFunc(me.Layers, same) && !slices.ContainsFunc(merged, same) {
			return l
		}
	}
	return nil
}

func runsThere(p *Peer, me *Guest) string {
	if me.Live {
		return fmt.Sprintf("the guest runs here, and host %s has told at %s that it runs there", p.Name, stamp(p.When))
	}
	return fmt.Sprintf("the guest runs on host %s, which has told so at %s: the definition here is one that was left behind", p.Name, stamp(p.When))
}

func runsThereRemedy(name string, me *Guest) string {
	down := fmt.Sprintf("; if that host is down: virt-rotate adopt --down %s %s", host.Quoted(name), host.Quoted(me.Name))
	if me.Live {
		return "if it has moved, let virt-rotate run on " + name + " once, which then tells that it has it no more; if it runs on both, stop one of them at once" + down
	}
	return "undefine it here" + down
}

func ownedBy(p *Peer, g *Guest, mine uint64) string {
	was := ""
	if mine > 0 {
		was = fmt.Sprintf(", after this host (epoch %d)", mine)
	}
	if g.Left {
		return fmt.Sprintf("the guest was on host %s (epoch %d)%s: the definition here may be an old one", p.Name, g.Epoch, was)
	}
	return fmt.Sprintf("the guest is host %s's (epoch %d)%s, which has told at %s that it has it", p.Name, g.Epoch, was, stamp(p.When))
}

func stamp(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// Claims completes what this host tells by whose its guests are, and by what it has given up:
// that is told until another host has claimed it with a higher epoch. adopted names, by UUID,
// guests that a person has made this host's.
func Claims(told Told, v *View, adopted map[string]uint64) Told {
	for i := range told.Guests {
		g := &told.Guests[i]
		if g.Epoch = Judge(g, v).Epoch; g.Epoch == 0 {
			g.Epoch = before(g.UUID, v) // an old claim stays what it was: it is the lower one
		}
		g.Epoch = max(g.Epoch, adopted[g.UUID])
		g.Seen = max(g.Epoch, Seen(g.UUID, v))
	}
	for _, was := range v.Mine.Guests {
		if told.Guest(was.UUID) != nil || was.Epoch == 0 {
			continue
		}
		if _, g := highest(was.UUID, v); g != nil && g.Epoch > was.Epoch {
			continue
		}
		told.Guests = append(told.Guests, Guest{UUID: was.UUID, Name: was.Name, Epoch: was.Epoch, Seen: was.Epoch, Left: true, On: was.On})
	}
	return told
}

func before(uuid string, v *View) uint64 {
	if g := v.Mine.Guest(uuid); g != nil {
		return g.Epoch
	}
	return 0
}
