package guests

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// snapshotHelp tells in help texts how a snapshot is named.
const snapshotHelp = `SNAPSHOT is a name or the beginning of one; latest or oldest; -1, which is the latest,
-2, the one before, and so on; today, yesterday or a date such as 2026-11-22, which is
the last one of that day.

`

// A wantedState says of what guest which state is to be read.
type wantedState struct {
	domain, snapshot string   // "" for the present state
	disks            []string // targets; none for all
}

// A readState is the state of a guest's disks as layers have it.
type readState struct {
	domain, uuid string
	snapshot     string // "" for the present state
	disks        []readDisk
}

// A readDisk is one disk's layers.
type readDisk struct {
	target string
	nodes  []chain.Node // base first
	shared bool         // the guest may write to the uppermost
}

// A look is what was found of states, and where records are.
type look struct {
	states  []readState
	dir     string
	reading *journal.Reading // nil before begin, and where none can be written
}

// readStates finds states, asks libvirt and gives the connection back: reading may take hours.
func readStates(r *images.Run, wanted ...wantedState) (l *look, err error) {
	l = &look{}
	err = session.With(r.Env, true, func(s *session.Session) error {
		if s.Host.Remote() {
			return &chain.RefusedError{Path: wanted[0].domain, Reason: "the connection is to another host: run virt-rotate there"}
		}
		w, err := s.Rotator.Observer.Observe(r.Ctx())
		if err != nil {
			return err
		}
		l.dir = s.Rotator.Observer.StateDir
		return l.find(r, w, wanted)
	})
	return l, err
}

// find finds the states that are wanted.
func (l *look) find(r *images.Run, w *observe.World, wanted []wantedState) error {
	for i := range wanted {
		if wanted[i].snapshot == "" && i > 0 { // as the state that it is compared with
			wanted[i].disks = l.states[0].targets()
		}
		state, err := stateIn(r, w, &wanted[i])
		if err != nil {
			return err
		}
		l.states = append(l.states, *state)
	}
	return nil
}

func (s *readState) targets() []string {
	var targets []string
	for i := range s.disks {
		targets = append(targets, s.disks[i].target)
	}
	return targets
}

// stateIn finds the layers of one state.
func stateIn(r *images.Run, w *observe.World, wanted *wantedState) (*readState, error) {
	if wanted.snapshot == "" {
		return presentIn(r, w, wanted)
	}
	d, snapshot, err := w.Named(wanted.domain, wanted.snapshot, r.Clock())
	if err != nil {
		return nil, term.Usagef("%w", err)
	}
	tellMeant(r.Env, wanted.snapshot, snapshot.Name)
	wanted.snapshot = snapshot.Name // whatever it meant: later it might mean another one
	layers, err := intactLayers(w, d, snapshot, wanted.disks)
	if err != nil {
		return nil, err
	}
	state := &readState{domain: d.Name, uuid: d.UUID, snapshot: snapshot.Name}
	for i := range layers {
		nodes, err := readable(r, layers[i].Path, layers[i].Format, layers[i].Chain)
		if err != nil {
			return nil, err
		}
		state.disks = append(state.disks, readDisk{layers[i].Target, nodes, false})
	}
	return state, nil
}

// intactLayers are those with the state of the snapshot, which must be whole.
func intactLayers(w *observe.World, d *host.Domain, snapshot *host.Snapshot, targets []string) ([]host.StateLayer, error) {
	if err := decide.Intact(w, d, snapshot.Name); err != nil {
		return nil, err
	}
	layers, err := chooseStates(snapshot.Name, d.States(snapshot), targets)
	if err != nil {
		return nil, err
	}
	for i := range layers {
		if layers[i].Written && d.State.Live() {
			return nil, &chain.RefusedError{Path: layers[i].Path, Reason: "the guest writes to it: it does not hold the state of the snapshot any more"}
		}
	}
	return layers, nil
}

// presentIn finds the layers that the guest has now.
func presentIn(r *images.Run, w *observe.World, wanted *wantedState) (*readState, error) {
	d := w.Domain(wanted.domain)
	if d == nil {
		return nil, term.Usagef("%w", w.NoSuchDomain(wanted.domain))
	}
	state := &readState{domain: d.Name, uuid: d.UUID}
	for _, target := range wanted.disks {
		disk := host.DiskOf(d, target)
		if disk == nil || len(disk.Chain) == 0 {
			return nil, &chain.RefusedError{Path: target, Reason: "the guest has no such disk now, or its chain cannot be read: name others with --disk"}
		}
		last := len(disk.Chain) - 1
		nodes, err := readable(r, disk.Chain[last].Path, disk.Chain[last].Format, host.Paths(disk.Chain[:last]))
		if err != nil {
			return nil, err
		}
		state.disks = append(state.disks, readDisk{target, nodes, true})
	}
	return state, nil
}

// readable reads the headers of an image and of what it builds on.
func readable(r *images.Run, path, format string, below []string) ([]chain.Node, error) {
	r.Store.Named = append(slices.Clone(below), path)
	for _, path := range r.Store.Named {
		r.Store.Allow = append(r.Store.Allow, filepath.Dir(path))
	}
	return r.Readable(path, format)
}

// tellMeant tells which snapshot it is, where that was not written out.
func tellMeant(e *term.Env, text, name string) {
	if text != name {
		fmt.Fprintf(e.Err, "virt-rotate: %s is %s\n", text, term.Printable(name))
	}
}

// chooseStates takes the disks that are named, or all.
func chooseStates(snapshot string, states []host.StateLayer, targets []string) ([]host.StateLayer, error) {
	var there []string
	for i := range states {
		there = append(there, states[i].Target)
	}
	if len(states) == 0 {
		return nil, &chain.RefusedError{Path: snapshot, Reason: "the snapshot has no layers of its own: it is internal, or of memory only"}
	}
	for _, target := range targets {
		if !slices.Contains(there, target) {
			return nil, term.Usagef("--disk %s: the snapshot has %s", target, strings.Join(there, ", "))
		}
	}
	return slices.DeleteFunc(slices.Clone(states), func(s host.StateLayer) bool {
		return len(targets) > 0 && !slices.Contains(targets, s.Target)
	}), nil
}

// oneDisk finds the layers of the disk that --disk names, or of the only one, and puts on record
// that they are read.
func oneDisk(r *images.Run) (*look, []chain.Node, error) {
	wanted := wantedState{domain: r.Arg(0), snapshot: r.Arg(1)}
	if disk := r.String("disk"); disk != "" {
		wanted.disks = []string{disk}
	}
	l, err := readStates(r, wanted)
	if err != nil {
		return nil, nil, err
	}
	if targets := l.states[0].targets(); len(targets) > 1 {
		return nil, nil, term.Usagef("the snapshot has several disks: name one with --disk (%s)", strings.Join(targets, ", "))
	}
	return l, l.states[0].disks[0].nodes, l.begin(r, journal.Reader{})
}

// begin puts on record that the layers are read, as far as this user can.
func (l *look) begin(r *images.Run, reader journal.Reader) (err error) {
	var nodes []chain.Node
	for i := range l.states {
		for j := range l.states[i].disks {
			nodes = append(nodes, l.states[i].disks[j].nodes...)
		}
	}
	reader.Domain = l.states[0].domain
	l.reading, err = beginReading(r, l.dir, nodes, reader)
	return err
}

// beginReading puts on record that layers are read; nil where this user cannot write the record.
func beginReading(r *images.Run, stateDir string, nodes []chain.Node, reader journal.Reader) (*journal.Reading, error) {
	reader.Command, reader.PID, reader.Started = r.Command.Name, os.Getpid(), r.Clock()
	for _, n := range nodes {
		reader.Images = append(reader.Images, journal.File{Path: n.Path, ID: n.Info.ID})
	}
	reading, err := journal.BeginReading(stateDir, reader)
	if err != nil && os.Geteuid() != 0 {
		return nil, nil //nolint:nilerr // QEMU's locks are enough: a merge of the layers is refused
	}
	return reading, err
}

// end takes that off the record.
func (l *look) end() error { return l.reading.End() }

// stillThere sees, once the layers are locked or were read, that they still hold what they were
// taken to hold: a merge that had begun before is seen now.
func (l *look) stillThere(r *images.Run) error {
	for i := range l.states {
		s := &l.states[i]
		again, err := readStates(r, wantedState{s.domain, s.snapshot, s.targets()})
		if err == nil && again.states[0].uuid == s.uuid && slices.EqualFunc(again.states[0].disks, s.disks, sameLayers) {
			continue
		}
		if r.Ctx().Err() != nil {
			return r.Ctx().Err()
		}
		why := ""
		if err != nil {
			why = " (" + err.Error() + ")"
		}
		return &chain.RefusedError{Path: s.String(), Reason: "its layers have changed since they were looked at, by a merge perhaps, and may hold another state: try again" + why}
	}
	return nil
}

func (s *readState) String() string {
	if s.snapshot == "" {
		return s.domain + ", as it is now"
	}
	return s.domain + "@" + s.snapshot
}

func sameLayers(a, b readDisk) bool {
	return slices.EqualFunc(a.nodes, b.nodes, func(x, y chain.Node) bool { return x.Path == y.Path && x.Info.ID == y.Info.ID })
}
