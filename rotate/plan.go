package rotate

import (
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
)

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
	OpConfigure    Op = "configure" // of a restore: the domain gets the configuration of the snapshot's time
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
	Domain  string    `json:"name"`
	Policy  string    `json:"policy"`
	State   State     `json:"state"`
	Steps   []Step    `json:"steps"`
	Refused []Refusal `json:"refused"`
	Waiting string    `json:"waiting,omitempty"` // what is put off, and until when
	Result  string    `json:"result"`
	Error   string    `json:"error,omitempty"`

	Hooks    []Hook   `json:"hooks,omitempty"`    // what would be run, or was
	Warnings []string `json:"warnings,omitempty"` // what is no failure, and will be one if nobody sees to it
	Ran      *Ran     `json:"ran,omitempty"`      // nil for what is only a plan

	Due      time.Time        `json:"-"` // when the next snapshot is due
	Verdicts []policy.Verdict `json:"-"` // what retention says of each of our snapshots, oldest first
	groups   []group          `json:"-"`
	forget   bool             `json:"-"` // the domain's intent has nothing left to do
}

// A group is the part of a plan that is written down as one intent: either a
// snapshot, or the merges that a run of neighbouring snapshots needs.
type group struct {
	first, steps int // its steps are Plan.Steps[first : first+steps]
	snapshot     *SnapshotSpec
	drops        []string // snapshots whose metadata goes
	merges       []merge
	garbage      []intentFile // layers of branches that nobody keeps
	grafted      bool         // its grafts are done
	copies       []string     // disks on which the copy of an interrupted graft runs
	leftovers    []leftover   // files that an interrupted run left behind
	keepIntent   bool         // the earlier intent names files that must not be deleted yet
}

// A merge is a MergeSpec with what must be true after it.
type merge struct {
	MergeSpec
	offline bool    // by the engine: no guest has the disk open
	branch  bool    // of layers that no disk has in its chain
	graft   *graft  // clones take the place of the layers; nil: it is no graft
	why     string  // it is no graft, to be told in the reason
	detach  bool    // a pull off layers that are not this domain's alone: they stay
	gone    []Layer // the layers that disappear, lowest first
	after   []Layer // the disk's whole chain once it is done, base first
}

// A leftover is a file that an earlier run was about to delete.
type leftover struct {
	path  string
	file  intentFile
	blank bool // it may only be deleted if no data was written into it
}

// Refuse notes why something is not done.
func (p *Plan) Refuse(code, path, detail string) {
	p.Refused = append(p.Refused, Refusal{code, path, detail})
}

// refuseOnce adds those of the refusals that are not there yet.
func (p *Plan) refuseOnce(refusals []Refusal) {
	for _, r := range refusals {
		if !slices.Contains(p.Refused, r) {
			p.Refused = append(p.Refused, r)
		}
	}
}

// settle derives the result of a plan that has not been run.
func (p *Plan) settle() {
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
