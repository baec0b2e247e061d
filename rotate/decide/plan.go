package decide

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// String says what the step does, for errors and logs.
func (s Step) String() string {
	switch s.Op {
	case OpMerge:
		return fmt.Sprintf("%s %s: %s into %s", s.Method, s.Disk, s.From(), s.Into())
	case OpSnapshot:
		return fmt.Sprintf("snapshot %s of %s: %s", s.Snapshot, s.Disk, s.Path)
	case OpDeleteFile:
		return "delete-file " + s.Path
	case OpConfigure:
		return "configure: as at the time of " + s.Snapshot
	case OpEndCopy:
		return "end-copy " + s.Disk
	case OpFirmware, OpMemory, OpGoOn:
		return string(s.Op) + " " + s.Path
	case OpStop, OpStart, OpTakeOver, OpMigrate:
		return string(s.Op)
	case OpUnfold:
		return fmt.Sprintf("unfold %s of %s: %s", cmp.Or(s.Snapshot, "the present"), s.Disk, s.Path)
	case OpSwitch:
		return fmt.Sprintf("switch %s to %s", s.Disk, s.Base)
	case OpRedefine:
		if s.Snapshot == "" {
			return fmt.Sprintf("redefine %s: start from %s", s.Disk, s.Base)
		}
		return "redefine " + s.Snapshot
	default:
		return string(s.Op) + " " + s.Snapshot
	}
}

// Into returns the layer that a merge brings data into.
func (s Step) Into() string {
	if strings.HasSuffix(s.Method, "pull") {
		return s.Top
	}
	return s.Base
}

// From returns the far end of the layers that a merge takes data from.
func (s Step) From() string {
	if strings.HasSuffix(s.Method, "pull") {
		return s.Base
	}
	return s.Top
}

// When says when a hook runs.
type When string

// A domain that has something to do gets Before, and, if that was started, exactly one
// of the others, unless virt-rotate itself is killed. A domain that is refused
// without anything to do gets Failed alone.
const (
	Before When = "before"
	After  When = "after"
	Failed When = "failed"
)

// A Hook is one program of the policy that a plan would run, or that was run.
type Hook struct {
	When    When              `json:"when"`
	Command []string          `json:"command"`
	Error   string            `json:"error,omitempty"`
	Env     map[string]string `json:"-"` // what it is told, see docs/policy.md
	Timeout time.Duration     `json:"-"`
	Output  func(line string) `json:"-"` // takes what it says; from one goroutine
}

// Op is what a step does.
type Op string

// The operations, in the order in which a rotation uses them.
const (
	OpSnapshot     Op = "snapshot"
	OpDropMetadata Op = "drop-metadata"
	OpMerge        Op = "merge"
	OpRedefine     Op = "redefine"
	OpDeleteFile   Op = "delete-file"
	OpEndCopy      Op = "end-copy"  // the copy of a graft that was interrupted
	OpSwitch       Op = "switch"    // of a restore: the disk gets a new overlay on another layer
	OpFirmware     Op = "firmware"  // UEFI variables and TPM state are copied with a snapshot, or go back with a restore
	OpMemory       Op = "memory"    // the guest's memory is kept with a snapshot
	OpGoOn         Op = "go-on"     // of a restore: the guest goes on from the memory of the snapshot
	OpStop         Op = "stop"      // of a restore: the guest is shut down first
	OpStart        Op = "start"     // of a restore: the guest runs from then on
	OpConfigure    Op = "configure" // of a restore: the domain gets the configuration of the snapshot's time
	OpUnfold       Op = "unfold"    // of an adoption: a state inside an image becomes a layer
	OpMigrate      Op = "migrate"   // the domain goes to another host
	OpTakeOver     Op = "take-over" // of an adoption: the domain is this host's from then on
)

// A Step is one thing to do to a domain, with its reason.
type Step struct {
	Op       Op     `json:"op"`
	Snapshot string `json:"snapshot,omitempty"`
	Disk     string `json:"disk,omitempty"`
	Method   string `json:"method,omitempty"` // commit, active-commit, pull or graft on a running guest, offline-commit or offline-pull by the engine
	Top      string `json:"top,omitempty"`
	Base     string `json:"base,omitempty"`
	Path     string `json:"path,omitempty"` // the file that is created or deleted
	Bytes    int64  `json:"bytes"`          // snapshot: space it may need; merge: data in the layers that go; delete-file: space given back
	Reason   string `json:"reason"`
}

// A Kept is an image that stays though the domain has no use for it any more.
type Kept struct {
	Path   string `json:"path"`
	Bytes  int64  `json:"bytes"`             // on disk
	UsedBy string `json:"used-by,omitempty"` // what else needs it
}

// A Refusal says why something is not done.
type Refusal struct {
	Code   string `json:"code"`
	Path   string `json:"path,omitempty"` // the file or disk in question
	Detail string `json:"detail"`
}

// Results of a plan or of its run.
const (
	ResultNothing  = "nothing-to-do"
	ResultPlanned  = "planned"
	ResultDone     = "done"
	ResultPartly   = "partly-refused" // some steps were refused, others are done
	ResultRefused  = "refused"
	ResultSkipped  = "skipped"
	ResultFailed   = "failed"
	ResultCanceled = "canceled"
)

// A Plan is what to do to one domain: pure data, in order.
type Plan struct {
	Domain  string     `json:"name"`
	Policy  string     `json:"policy"`
	State   host.State `json:"state"`
	Steps   []Step     `json:"steps"`
	Refused []Refusal  `json:"refused"`
	Skipped []Refusal  `json:"skipped,omitempty"` // disks that snapshots are taken without, and why
	Waiting string     `json:"waiting,omitempty"` // what is put off, and until when
	Result  string     `json:"result"`
	Error   string     `json:"error,omitempty"`

	Restores string `json:"restores,omitempty"` // of a restore: the snapshot that the domain goes back to
	Kept     []Kept `json:"kept,omitempty"`     // of an adoption: the images with the internal snapshots, which stay as they were

	Hooks    []Hook   `json:"hooks,omitempty"`    // what would be run, or was
	Warnings []string `json:"warnings,omitempty"` // what is no failure, and will be one if nobody sees to it
	Ran      *Ran     `json:"ran,omitempty"`      // nil for what is only a plan

	Due      time.Time        `json:"-"` // when the next snapshot is due
	Verdicts []policy.Verdict `json:"-"` // what retention says of each of our snapshots, oldest first
	Groups   []Group          `json:"-"`
	Forget   bool             `json:"-"` // the domain's intent has nothing left to do

	MergesWait bool `json:"-"` // what is put off are merges
}

// A Group is the part of a plan that is written down as one intent: either a
// snapshot, or the merges that a run of neighbouring snapshots needs.
type Group struct {
	First, Steps int // its steps are Plan.Steps[first : first+steps]
	Snapshot     *host.SnapshotSpec
	Drops        []string // snapshots whose metadata goes
	Merges       []Merge
	Garbage      []journal.File // layers of branches that nobody keeps
	Grafted      bool           // its grafts are done
	copies       []string       // disks on which the copy of an interrupted graft runs
	copied       []string       // the images that those write to
	Leftovers    []string       // paths of files that an interrupted run left behind
	KeepIntent   bool           // the earlier intent names files that must not be deleted yet
}

// A Merge is a MergeSpec with what must be true after it.
type Merge struct {
	host.MergeSpec
	Way     Way          // how
	Offline bool         // by the engine: no guest has the disk open
	Graft   *Graft       // of a graft: the clones that take the place of the layers
	why     string       // it is no graft, to be told in the reason
	Gone    []host.Layer // the layers that disappear, lowest first
	After   []host.Layer // the disk's whole chain once it is done, base first
}

// Refuse notes why something is not done.
func (p *Plan) Refuse(code, path, detail string) {
	p.Refused = append(p.Refused, Refusal{code, path, detail})
}

// putOff notes why merges wait.
func (p *Plan) putOff(why string) { p.Waiting, p.MergesWait = why, true }

// skip notes what is left out, once.
func (p *Plan) skip(r Refusal) {
	if !slices.Contains(p.Skipped, r) {
		p.Skipped = append(p.Skipped, r)
	}
}

// refuseOnce adds those of the refusals that are not there yet.
func (p *Plan) refuseOnce(refusals []Refusal) {
	for _, r := range refusals {
		if !slices.Contains(p.Refused, r) {
			p.Refused = append(p.Refused, r)
		}
	}
}

// Settle derives the result of a plan that has not been run.
func (p *Plan) Settle() {
	switch {
	case p.Result != "":
	case len(p.Steps) > 0:
		p.Result = ResultPlanned
	case len(p.Refused) > 0:
		p.Result = ResultRefused
	default:
		p.Result = ResultNothing
	}
}

// Ran is what a run tells of a domain beside its steps. Sizes are bytes.
type Ran struct {
	Start     time.Time `json:"start"`
	End       time.Time `json:"end"`
	UUID      string    `json:"uuid"`
	Merged    int64     `json:"merged"`    // data in the layers that were merged
	Freed     int64     `json:"freed"`     // allocated by the files that were deleted
	Allocated int64     `json:"allocated"` // by the chains of the writable disks and what snapshots keep beside them, as last seen
	Layers    int       `json:"layers"`    // of the longest of them
}
