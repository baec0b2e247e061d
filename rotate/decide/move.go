package decide

import (
	"fmt"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// A MoveRequest is what is known, beside the world, of a migration that is asked for.
type MoveRequest struct {
	To       string
	Options  []string
	There    host.Stand
	Unshared []string // files that the other host does not have
}

// Move plans the migration of the domain: the metadata of its snapshots goes here, children first, the
// domain moves, and the metadata is written there, parents first.
func (c Case) Move(r *MoveRequest) Plan {
	b := c.builder()
	b.checkGuest()
	b.checkOwner()
	b.checkMovable(r)
	b.checkDestination(r)
	if len(b.plan.Refused) > 0 {
		b.plan.Settle()
		return b.plan
	}
	for i := range slices.Backward(b.d.Snapshots) {
		b.add(Step{Op: OpDropMetadata, Snapshot: b.d.Snapshots[i].Name, Reason: "libvirt moves no guest with snapshots; it is on record"})
	}
	b.add(Step{Op: OpMigrate, Reason: fmt.Sprintf("to host %s, at %s", r.There.Host, r.To)})
	for i := range b.d.Snapshots {
		b.add(Step{Op: OpRedefine, Snapshot: b.d.Snapshots[i].Name, Reason: "on host " + r.There.Host})
	}
	if r.There.Name != "" {
		b.plan.Warnings = append(b.plan.Warnings, fmt.Sprintf("host %s has a definition of the guest, off: that of this host takes its place", r.There.Host))
	}
	b.plan.Settle()
	return b.plan
}

// checkMovable refuses what must not go away from here now.
func (b *builder) checkMovable(r *MoveRequest) {
	d := b.d
	if in := b.w.Intents[d.UUID]; in != nil {
		b.refuse(host.CodeIntent, "", "an interrupted run is to be finished first: virt-rotate run "+host.Quoted(d.Name))
	}
	if d.Checkpoints > 0 {
		b.refuse(host.CodeCheckpoints, "", "its checkpoints, of a backup program, are of this host, and would stay behind: let the program end them first (virsh checkpoint-delete while the guest runs)")
	}
	for i := range d.Disks {
		if disk := &d.Disks[i]; disk.Job != nil {
			b.refuse(host.CodeBlockJob, disk.Target, fmt.Sprintf("a block job of type %q runs on it: let it end, or end it (virsh blockjob)", disk.Job.Type))
		}
	}
	for _, path := range r.Unshared {
		b.refuse(host.CodeNotShared, path, "as far as is known, it is on a disk of this host alone: the other host has something else there, or nothing")
	}
	if _, err := MoveOptions(r.Options); err != nil {
		b.refuse(host.CodeDestination, "", err.Error())
	}
}

// checkDestination refuses what the other host has in the guest's place.
func (b *builder) checkDestination(r *MoveRequest) {
	there, d := &r.There, b.d
	switch {
	case there.NameTaken != "":
		b.refuse(host.CodeDestination, "", fmt.Sprintf("host %s has another domain of that name (UUID %s)", there.Host, there.NameTaken))
	case there.Name == "":
	case there.Name != d.Name:
		b.refuse(host.CodeDestination, "", fmt.Sprintf("host %s has a domain %q with the UUID of this one", there.Host, there.Name))
	case there.State.Live():
		b.refuse(host.CodeDestination, "", fmt.Sprintf("the guest is %s on host %s already: stop one of the two, if it runs on both", there.State, there.Host))
	case !d.State.Live():
		b.refuse(host.CodeDestination, "", fmt.Sprintf("host %s has a definition of the guest, which is off here: undefine the one that is old", there.Host))
	case len(there.Snapshots) > 0:
		b.refuse(host.CodeDestination, "", fmt.Sprintf("host %s has an old definition of the guest, with %s: virsh undefine --snapshots-metadata there", there.Host, host.Plural(len(there.Snapshots), "snapshot")))
	}
}

// An End is where a migration has ended.
type End string

// The ends; it may be open still.
const (
	EndOpen  End = ""
	EndHere  End = "here"  // the guest is on the host that began
	EndThere End = "there" // it is on the other one
)

// AsksThere tells whether it takes the other host's word to know where a migration that this host began
// has ended. here is the guest on this host, nil if there is none.
func AsksThere(m *journal.Move, here *host.Domain) bool {
	return here == nil || !settled(here) || !here.State.Live() && m.Moving
}

// EndOfMove says where a migration that this host began has ended, and of one that is open, why. there is what
// the other host says if it was asked; err, why it says nothing.
func EndOfMove(m *journal.Move, here *host.Domain, there *host.Stand, err error) (End, string) {
	switch {
	case !AsksThere(m, here):
		return EndHere, ""
	case err != nil:
		return EndOpen, "the other host cannot be asked whether the guest is there: " + err.Error()
	case here != nil && !settled(here):
		return unsettled(m, here, there)
	case here != nil && !there.Live():
		return EndHere, ""
	case there.Name == "":
		return EndOpen, fmt.Sprintf("the guest is neither here nor on host %s", there.Host)
	case !there.Settled:
		return EndOpen, fmt.Sprintf("on host %s the guest is %s, and not there for good yet", there.Host, there.State)
	}
	return EndThere, ""
}

// settled tells whether the guest is in a state that lasts.
func settled(d *host.Domain) bool {
	return d.Busy == "" && d.Problem == "" && (d.State == host.Running || d.State == host.Paused || d.State == host.ShutOff)
}

// unsettled tells of a guest of which libvirt itself does not know on this host where it runs.
func unsettled(m *journal.Move, here *host.Domain, there *host.Stand) (End, string) {
	switch {
	case here.Problem != "":
		return EndOpen, "the guest cannot be read here: " + here.Problem
	case here.Busy != "":
		return EndOpen, fmt.Sprintf("libvirt is at work on the guest (%s)", here.Busy)
	case there.Live():
		return EndOpen, fmt.Sprintf("the guest runs on host %s, and libvirt has kept its process here, which stands still: virsh destroy %[2]s and virsh undefine %[2]s here", there.Host, host.Quoted(m.Named()))
	}
	return EndOpen, fmt.Sprintf("the guest is %s here, and not on host %s: virsh resume %s", here.State, there.Host, host.Quoted(m.Named()))
}

// Arrived tells whether a guest that another host has sent is here, so that its snapshots can be written. A
// definition that is off may be an old one, unless the guest moved so, or is this host's.
func Arrived(w *observe.World, m *journal.Move, d *host.Domain) (bool, string) {
	v := w.Whose[d.UUID]
	switch {
	case !settled(d) || d.Transient:
		return false, fmt.Sprintf("the guest is %s here, and not for good yet", d.State)
	case d.State.Live() || m.Offline || v.Why == "" && v.Epoch > 0:
		return true, ""
	}
	return false, "the guest is off here, and its definition may be an old one: host " + m.From + " is to say so, by a run of virt-rotate there"
}

// openMove tells of a migration that is not finished.
func openMove(m *journal.Move) string {
	if m.Broken != "" {
		return "the guest was moved, and the record of that cannot be read: " + m.Broken
	}
	return fmt.Sprintf("its migration from host %s to %s, begun %s, is not finished: the next run here finishes it, once it is known where the guest is",
		m.From, m.To, m.Started.Local().Format("2006-01-02 15:04:05"))
}

// goneMoves tells of migrations of guests that are not here.
func goneMoves(w *observe.World) []Finding {
	var found []Finding
	for uuid, m := range w.Moves {
		if !slices.ContainsFunc(w.Domains, func(d host.Domain) bool { return d.UUID == uuid }) {
			found = append(found, Finding{Code: host.CodeMove, Domain: m.Named(), Detail: openMove(m),
				Remedy: "virt-rotate run finishes it, once the other host answers; docs/recovery.md tells more"})
		}
	}
	slices.SortFunc(found, func(a, b Finding) int { return strings.Compare(a.Domain, b.Domain) })
	return found
}
