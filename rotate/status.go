package rotate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// A DomainStatus tells how a domain stands under its policy.
type DomainStatus struct {
	Name      string           `json:"name"`
	Policy    string           `json:"policy"`
	State     host.State       `json:"state"`
	Disks     []DiskStatus     `json:"disks"`
	Snapshots []SnapshotStatus `json:"snapshots"`
	LastRun   *LastRun         `json:"last-run" jsonschema:"nullable"`
	Due       *time.Time       `json:"due" jsonschema:"nullable"` // when the next snapshot is due; null when none ever is, or several policies match
	Refused   []decide.Refusal `json:"refused"`
	Waiting   string           `json:"waiting,omitempty"`      // what is put off, and until when
	WentBack  string           `json:"went-back-to,omitempty"` // the snapshot that the guest went back to, if none was taken since
	Skipped   []decide.Refusal `json:"skipped,omitempty"`      // disks that snapshots are taken without, and why
}

// A DiskStatus is a disk's chain, base first.
type DiskStatus struct {
	Target string        `json:"target"`
	Chain  []LayerStatus `json:"chain"`
}

// A LayerStatus is one layer. Sizes are bytes.
type LayerStatus struct {
	Path        string `json:"path"`
	Format      string `json:"format"`
	VirtualSize int64  `json:"virtual-size"`
	Allocated   int64  `json:"allocated"`
	Snapshot    string `json:"snapshot"` // the snapshot whose state it holds, or ""
	Kept        bool   `json:"kept"`
	Reason      string `json:"reason"` // who keeps it
}

// A SnapshotStatus is one snapshot with what retention says of it.
type SnapshotStatus struct {
	Name   string    `json:"name"`
	Time   time.Time `json:"time"`
	Ours   bool      `json:"ours"`
	Keep   bool      `json:"keep"`
	Lost   bool      `json:"lost"` // a guest writes to what its state builds on
	Reason string    `json:"reason"`

	Quiesced bool       `json:"quiesced"`           // the guest froze its file systems for it, as its description says
	Pinned   bool       `json:"pinned,omitempty"`   // it stays until a person takes that back
	Expires  *time.Time `json:"expires,omitempty"`  // it stays until then, and goes
	Note     string     `json:"note,omitempty"`     // of the person who took it; the description of one that is not ours
	LeftOut  string     `json:"left-out,omitempty"` // disks that it was taken without, as its description says

	Memory *MemoryStatus `json:"memory,omitempty"` // that the guest had; not there if it is not kept
}

// A MemoryStatus is a file with the memory of a guest. Sizes are bytes.
type MemoryStatus struct {
	Path      string `json:"path"`
	Allocated int64  `json:"allocated"`
	Missing   bool   `json:"missing,omitempty"` // the file is gone
}

// A LastRun is how the last run ended for a domain.
type LastRun struct {
	Time    time.Time        `json:"time"`
	Result  string           `json:"result"`
	Error   string           `json:"error,omitempty"`
	Refused []decide.Refusal `json:"refused,omitempty"`
}

// Status tells how d stands. It is pure. A fault in it is told as what is refused.
func Status(w *observe.World, d *host.Domain, rule *policy.Rule, last *LastRun, now time.Time) (s DomainStatus) {
	if f := host.Contain(d.Name, func() { s = status(w, d, rule, last, now) }); f != nil {
		return DomainStatus{Name: d.Name, Policy: rule.Name, State: d.State, LastRun: last,
			Disks: []DiskStatus{}, Snapshots: []SnapshotStatus{}, Refused: []decide.Refusal{{Code: host.CodeFault, Detail: f.Error()}}}
	}
	return s
}

func status(w *observe.World, d *host.Domain, rule *policy.Rule, last *LastRun, now time.Time) DomainStatus {
	p := decide.Decide(w, d, rule, now, decide.Options{})
	s := newStatus(w, d, &p, last)
	if rule.TakesSnapshots() {
		due := p.Due.UTC()
		s.Due = &due
	}
	verdicts := decide.Retention(d, rule, now)
	for i := range d.Snapshots {
		s.Snapshots = append(s.Snapshots, snapshotStatus(w, &d.Snapshots[i], verdicts))
	}
	s.tellLost(w.Destroyed(d))
	return s
}

// tellLost marks the snapshots that are lost.
func (s *DomainStatus) tellLost(lost []journal.Destroyed) {
	for _, x := range lost {
		for i := range s.Snapshots {
			if st := &s.Snapshots[i]; st.Name == x.Snapshot && !st.Lost {
				st.Lost, st.Reason = true, x.String()
			}
		}
	}
}

// ConflictStatus tells how d stands, which several policies match: it stays as it is.
func ConflictStatus(w *observe.World, d *host.Domain, c *policy.Conflict, last *LastRun) DomainStatus {
	p := decide.ConflictPlan(d, c)
	s := newStatus(w, d, &p, last)
	for i := range d.Snapshots {
		st := snapshotStatus(w, &d.Snapshots[i], nil)
		if st.Ours {
			st.Reason = "several policies match the domain"
		}
		s.Snapshots = append(s.Snapshots, st)
	}
	return s
}

func newStatus(w *observe.World, d *host.Domain, p *decide.Plan, last *LastRun) DomainStatus {
	s := DomainStatus{Name: d.Name, Policy: p.Policy, State: d.State, LastRun: last,
		Disks: []DiskStatus{}, Snapshots: []SnapshotStatus{}, Refused: p.Refused, Skipped: p.Skipped, Waiting: p.Waiting}
	if back := d.WentBack(); back != nil {
		s.WentBack = back.Name
	}
	for i := range d.Disks {
		if len(d.Disks[i].Chain) > 0 && !d.Disks[i].ReadOnly {
			s.Disks = append(s.Disks, diskStatus(w, d, &d.Disks[i]))
		}
	}
	return s
}

// tellMark tells what a person said of the snapshot.
func (st *SnapshotStatus) tellMark(s *host.Snapshot) {
	m, ours := s.Mark()
	if st.Pinned, st.Note = m.Pinned, m.Note; !ours {
		st.Note = s.Description
	}
	if at := m.Expires.UTC(); !m.Expires.IsZero() {
		st.Expires = &at
	}
}

func snapshotStatus(w *observe.World, s *host.Snapshot, verdicts []policy.Verdict) SnapshotStatus {
	st := SnapshotStatus{Name: s.Name, Time: s.Time.UTC(), Ours: s.Ours(), Keep: true, Reason: "not taken by virt-rotate", Quiesced: s.Quiesced(), LeftOut: s.LeftOut()}
	st.tellMark(s)
	if s.Memory != "" {
		left, there := w.Left[s.Memory]
		st.Memory = &MemoryStatus{Path: s.Memory, Allocated: left.Allocated, Missing: !there && !w.Remote}
	}
	for _, v := range verdicts {
		if v.Name == s.Name {
			st.Keep, st.Reason = v.Keep, strings.Join(v.Reasons, ", ")
		}
	}
	return st
}

func diskStatus(w *observe.World, d *host.Domain, disk *host.Disk) DiskStatus {
	ds := DiskStatus{Target: disk.Target, Chain: []LayerStatus{}}
	for i := range disk.Chain {
		l := &disk.Chain[i]
		ls := LayerStatus{Path: l.Path, Format: l.Format, VirtualSize: l.Size, Allocated: l.Allocated, Snapshot: stateOf(d, disk, i)}
		if f := w.Forest.Find(l.Key()); f != nil {
			ls.Kept, ls.Reason = f.Kept(), strings.Join(f.Keepers, ", ")
			if len(f.Children) > 1 {
				ls.Reason = strings.TrimPrefix(ls.Reason+fmt.Sprintf(", shared by %d images", len(f.Children)), ", ")
			}
		}
		ds.Chain = append(ds.Chain, ls)
	}
	return ds
}

// stateOf returns the snapshot whose state layer i of the disk holds, or "".
func stateOf(d *host.Domain, disk *host.Disk, i int) string {
	for j := range d.Snapshots {
		s := &d.Snapshots[j]
		for _, sd := range s.Disks {
			if sd.Target == disk.Target && (disk.Index(sd.Overlay) == i+1 || sd.Reverted != "" && disk.Index(sd.Reverted) == i+1) {
				return s.Name
			}
		}
	}
	return ""
}

// lastRunsFile is where the results of the last runs are kept, by domain UUID.
func lastRunsFile(stateDir string) string { return filepath.Join(stateDir, "last-run.json") }

// LastRuns reads how the last run ended for each domain, by UUID.
func LastRuns(stateDir string) (map[string]LastRun, error) {
	runs := map[string]LastRun{}
	data, err := os.ReadFile(lastRunsFile(stateDir))
	if errors.Is(err, fs.ErrNotExist) {
		return runs, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &runs); err != nil {
		return nil, fmt.Errorf("%s: %w", lastRunsFile(stateDir), err)
	}
	return runs, nil
}

// saveLastRuns notes how the run ended for the domains of plans. Domains that
// are gone are forgotten.
func (r *Rotator) saveLastRuns(w *observe.World, plans []decide.Plan) error {
	runs, err := LastRuns(r.Observer.StateDir)
	if err != nil {
		runs = map[string]LastRun{} // only a report: a broken one is written anew
	}
	known := map[string]bool{}
	for i := range w.Domains {
		d := &w.Domains[i]
		known[d.UUID] = true
		if k := slices.IndexFunc(plans, func(p decide.Plan) bool { return p.Domain == d.Name }); k >= 0 {
			runs[d.UUID] = LastRun{r.Clock().UTC().Truncate(time.Second), plans[k].Result, plans[k].Error, plans[k].Refused}
		}
	}
	for uuid := range runs {
		if !known[uuid] {
			delete(runs, uuid)
		}
	}
	data, err := json.MarshalIndent(runs, "", "  ")
	if err != nil {
		return err
	}
	return vfs.WriteFile(lastRunsFile(r.Observer.StateDir), append(data, '\n'), 0o600)
}
