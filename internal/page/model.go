package page

import "time"

// A Model is all that a page shows. Sizes are bytes, times those of the moment when it was looked.
type Model struct {
	Host       Text        `json:"host"`
	Time       time.Time   `json:"time"` // texts of the page are in its zone
	Program    Text        `json:"program"`
	Level      Level       `json:"level"`
	Summary    Text        `json:"summary"`
	Working    bool        `json:"working"` // a run is at work
	Notes      []Text      `json:"notes"`   // what could not be read
	Guests     []Guest     `json:"guests"`
	Repository *Repository `json:"repository,omitempty"` // of sr report, which has no guests
}

// A Level is how well something is protected, in the words of monitoring systems; "" where nothing
// is judged.
type Level string

// The levels.
const (
	OK       Level = "OK"
	Warning  Level = "WARNING"
	Critical Level = "CRITICAL"
	Unknown  Level = "UNKNOWN"
)

// Sign is a letter's worth of the level, for those who do not see colours.
func (l Level) Sign() string {
	switch l {
	case OK:
		return "✓"
	case Warning:
		return "!"
	case Critical:
		return "✗"
	}
	return "?"
}

// Class is the level's class of the style sheet.
func (l Level) Class() string {
	switch l {
	case OK:
		return "ok"
	case Warning:
		return "warn"
	case Critical:
		return "crit"
	}
	return "unknown"
}

// A Guest is a domain with its layers, snapshots, the next plan and its history.
type Guest struct {
	Name     Text      `json:"name"`
	UUID     Text      `json:"uuid"`
	Policy   Text      `json:"policy"` // "" where none covers it
	State    Text      `json:"state"`
	Level    Level     `json:"level"`
	Findings []Finding `json:"findings"` // what check says, the worst first

	Newest      *time.Time `json:"newest-snapshot" jsonschema:"nullable"` // of ours
	Due         *time.Time `json:"due" jsonschema:"nullable"`             // when the next snapshot is due
	Layers      int        `json:"layers"`                                // of the longest chain
	MaxChain    int        `json:"max-chain"`                             // 0: not known
	Allocated   int64      `json:"allocated"`                             // by all chains
	Free        int64      `json:"free"`                                  // on its fullest storage; -1: not known
	MinFree     int64      `json:"min-free"`                              // what the policy keeps there
	LastRun     *Run       `json:"last-run" jsonschema:"nullable"`
	LastSuccess *time.Time `json:"last-success" jsonschema:"nullable"`
	WentBack    Text       `json:"went-back-to,omitempty"` // the snapshot that it went back to, if none was taken since
	Skipped     []Finding  `json:"skipped"`                // disks that snapshots are taken without, and why

	Jobs      []Job      `json:"jobs"` // that run just now
	Trees     []Layer    `json:"trees"`
	Snapshots []Snapshot `json:"snapshots"` // oldest first
	Plan      Plan       `json:"plan"`
	History   []Point    `json:"history"` // oldest first
}

// A Finding is something that somebody should know.
type Finding struct {
	Level  Level      `json:"level,omitempty"`
	Code   Text       `json:"code"`
	Path   Text       `json:"path,omitempty"`
	Detail Text       `json:"detail"`
	Since  *time.Time `json:"since,omitempty"`
	Remedy Text       `json:"remedy,omitempty"`
}

// A Run is how the last one ended.
type Run struct {
	Time    time.Time `json:"time"`
	Result  Text      `json:"result"`
	Error   Text      `json:"error,omitempty"`
	Refused []Finding `json:"refused"`
}

// A Job is a block job of QEMU on its way.
type Job struct {
	Disk Text  `json:"disk"`
	Type Text  `json:"type"`
	Done int64 `json:"done"`
	Size int64 `json:"size"`
}

// A Layer is one image with all that build on it.
type Layer struct {
	Path        Text    `json:"path"`
	Format      Text    `json:"format,omitempty"`
	VirtualSize int64   `json:"virtual-size"`
	Allocated   int64   `json:"allocated"`
	Mark        Mark    `json:"mark"`
	Shared      bool    `json:"shared"`             // several images build on it, or several guests use it
	Branch      bool    `json:"branch"`             // no disk has it in its chain: beside the present
	Foreign     bool    `json:"foreign"`            // it is another guest's, or nobody's
	Snapshots   []Text  `json:"snapshots"`          // whose states it holds
	Users       []Text  `json:"users"`              // who needs its content, in words
	Notes       []Text  `json:"notes,omitempty"`    // what people said of its snapshots
	Since       Text    `json:"since,omitempty"`    // how it came about, if its guest went back to a snapshot
	Why         Text    `json:"why,omitempty"`      // why it is free, or why nothing is changed
	Wrong       bool    `json:"wrong,omitempty"`    // Why tells of damage
	Others      int     `json:"others,omitempty"`   // further images that build on it and are not drawn
	Reclaim     int64   `json:"reclaims,omitempty"` // what merging or deleting it may give back
	Children    []Layer `json:"children"`           // what builds on it
	Label       Text    `json:"label,omitempty"`    // what people call it; "" for its file name
}

// A Mark is what becomes of a layer.
type Mark string

// The marks.
const (
	Active Mark = "active"  // a disk writes to it
	Kept   Mark = "kept"    // somebody needs its content
	Merges Mark = "free"    // nobody does, and one layer builds on it: it can be merged
	Gone   Mark = "garbage" // nobody and nothing needs it
	Passed Mark = ""        // nobody keeps it, and several build on it
)

// A Snapshot with what retention says of it.
type Snapshot struct {
	Name     Text       `json:"name"`
	Time     time.Time  `json:"time"`
	Ours     bool       `json:"ours"`
	Keep     bool       `json:"keep"`
	Pinned   bool       `json:"pinned"`
	Lost     bool       `json:"lost"`
	Expires  *time.Time `json:"expires,omitempty"`
	Goes     *time.Time `json:"goes,omitempty"` // when the rules let it go, if that is soon
	Reasons  []Text     `json:"reasons"`
	Note     Text       `json:"note,omitempty"`
	Quiesced bool       `json:"quiesced"`
	Memory   int64      `json:"memory,omitempty"` // of the guest, kept with it
	LeftOut  Text       `json:"left-out,omitempty"`
}

// A Plan is what the next run does.
type Plan struct {
	Result   Text      `json:"result"`
	Steps    []Step    `json:"steps"`
	Refused  []Finding `json:"refused"`
	Next     []Finding `json:"refused-when-due"` // what a run refuses when the next snapshot is due, and does not now
	Waiting  Text      `json:"waiting,omitempty"`
	Warnings []Text    `json:"warnings"`
}

// A Step is one thing to do.
type Step struct {
	Op     Text  `json:"op"`
	Text   Text  `json:"text"`
	Bytes  int64 `json:"bytes"`
	Reason Text  `json:"reason"`
}

// A Point is the guest after a run.
type Point struct {
	Time      time.Time `json:"time"`
	Result    Text      `json:"result"`
	Allocated int64     `json:"allocated"`
	Layers    int       `json:"layers"`
	Took      float64   `json:"took"` // seconds
	Merged    int64     `json:"merged"`
	Freed     int64     `json:"freed"`
}

// A Repository is one of XenServer's.
type Repository struct {
	Path     Text      `json:"path"`
	Nodes    int       `json:"nodes"`
	Physical int64     `json:"physical"`
	Visible  int64     `json:"visible-virtual"`
	Coalesce int64     `json:"reclaimable-by-coalesce"`
	Leaf     int64     `json:"reclaimable-by-leaf-coalesce"`
	Garbage  int64     `json:"reclaimable-by-garbage"`
	Needed   int64     `json:"needed"` // free space that this takes meanwhile
	AtLimit  int       `json:"at-limit"`
	Findings []Finding `json:"findings"`
	Trees    []Layer   `json:"trees"`
}
