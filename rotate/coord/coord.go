package coord

import (
	"context"
	"errors"
	"strings"
	"time"
	"unicode"
)

// Users are what the guests of each host use of a storage.
type Users interface {
	// Tell replaces what is on record of this host. claim gets what the others have told, and
	// returns what is to be told: nobody tells anything in between.
	Tell(ctx context.Context, now time.Time, claim func(View) Told) error
	// View is what is on record of all hosts.
	View(ctx context.Context) (View, error)
	// Forget takes a host out that is gone for good. What it knew of guests that it gave up
	// is kept by this host.
	Forget(ctx context.Context, name string) error
}

// Slot lets only so many hosts merge on a storage at the same time.
type Slot interface {
	// Take waits for one of n slots until ctx ends.
	Take(ctx context.Context, n int) (Hold, error)
}

// A Hold is a slot that this host has.
type Hold interface {
	// Release gives it back.
	Release()
	// Err tells why it is not this host's any more, though it was not given back; nil as long
	// as it is.
	Err() error
}

// Presence shows the other hosts that this one is at work.
type Presence interface {
	// Enter begins that; leave ends it.
	Enter(ctx context.Context) (leave func(), err error)
	// Locks tells whether locks reach the other hosts that are at work just now. It may
	// take some seconds where one of them is not seen.
	Locks(ctx context.Context) (Crossing, error)
}

// A Storage is one that hosts have together, as this host sees it. Who owns a guest follows
// from what the hosts have told: see Judge.
type Storage interface {
	Users
	Slot
	Presence
	// Dir is its directory here.
	Dir() string
	// Records is the directory on it with what hosts tell each other; fs.ErrNotExist where nobody has told
	// yet. One that others could have written to is an error.
	Records() (dir string, err error)
	// UUID names it on all hosts; "" where no other host has it, or nobody has told yet.
	UUID() string
	// Locate tells how hosts name the file at an absolute path to each other; false if it
	// is not on the storage.
	Locate(path string, dev, ino uint64) (Layer, bool)
}

// A Layer is an image on a storage, as hosts name it to each other.
type Layer struct {
	Ino    uint64 `json:"ino"`              // 0: not known
	Path   string `json:"path"`             // below the storage's directory; absolute if the host has it elsewhere
	Active bool   `json:"active,omitempty"` // a disk of the guest writes to it

	// Device is what all hosts call a block device. It is the same on each of them, and its path need not be.
	Device string `json:"device,omitempty"`

	// Elsewhere says that the layer is on a disk of the host's own, as overlays may be: a guest writes to it, and has others below
	// it on the storage.
	Elsewhere bool `json:"elsewhere,omitempty"`
}

// Same tells whether two hosts can mean the same image. inodes tells whether their inode
// numbers can be compared.
func (l Layer) Same(other Layer, inodes bool) bool {
	switch {
	case l.Elsewhere, other.Elsewhere:
		return false
	case l.Device != "", other.Device != "":
		return l.Device == other.Device
	}
	return inodes && l.Ino != 0 && l.Ino == other.Ino || l.Path != "" && l.Path == other.Path
}

// A Guest is what one host tells of a domain.
type Guest struct {
	UUID   string  `json:"uuid"`
	Name   string  `json:"name"`
	Live   bool    `json:"live,omitempty"`
	Epoch  uint64  `json:"epoch,omitempty"` // with which the host owns it; 0: it does not
	Seen   uint64  `json:"seen,omitempty"`  // the highest epoch that was on record when the host told this
	Left   bool    `json:"left,omitempty"`  // the host does not have it any more
	Layers []Layer `json:"layers,omitempty"`

	// On is what the disks of a guest lie on, as hosts call it to each other, that has no file on the storage: nobody shares
	// the guest who sees none of that.
	On []string `json:"on,omitempty"`
}

// Told is all that one host tells of a storage.
type Told struct {
	Guests []Guest  `json:"guests"`
	Images []Layer  `json:"images,omitempty"` // layers that images elsewhere on the host build on, or saved guests need
	Doubts []string `json:"doubts,omitempty"` // why the host cannot tell all that it uses
	Ran    *Ran     `json:"ran,omitempty"`    // its last run by the clock; nil: there was none yet

	// Devices are the disks, volume groups and the like that the host sees: it may use any block device that lies on
	// one of them.
	Devices []string `json:"devices,omitempty"`

	// Asks says that no guest is started on the host unless Begin has told of it: that is what Starts are, and what Merging
	// holds back.
	Asks    bool    `json:"asks,omitempty"`
	Starts  []Start `json:"starts,omitempty"`
	Merging []Work  `json:"merging,omitempty"`
}

// A Ran is how a run on a host ended, in numbers of all domains that policies cover there.
type Ran struct {
	End     time.Time `json:"end"`
	Domains int       `json:"domains"`
	Refused int       `json:"refused"` // something was refused
	Failed  int       `json:"failed"`
	Waiting int       `json:"waiting"` // merges are put off
}

// clean takes out of names what could confuse a terminal. Paths stay: they are compared, and
// quoted where they are shown.
func (t *Told) clean() {
	for i := range t.Guests {
		t.Guests[i].Name = printable(t.Guests[i].Name)
	}
	for i := range t.Doubts {
		t.Doubts[i] = printable(t.Doubts[i])
	}
	for i := range t.Starts {
		t.Starts[i].Name, t.Starts[i].Doubt = printable(t.Starts[i].Name), printable(t.Starts[i].Doubt)
	}
	for i := range t.Merging {
		t.Merging[i].Name = printable(t.Merging[i].Name)
	}
}

// mostText is how much of a text of another host is taken, in bytes.
const mostText = 512

func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(text[:min(len(text), mostText)], "?"))
}

// Guest returns the domain with that UUID, or nil.
func (t *Told) Guest(uuid string) *Guest {
	for i := range t.Guests {
		if t.Guests[i].UUID == uuid {
			return &t.Guests[i]
		}
	}
	return nil
}

// A Peer is another host, and what it has told last.
type Peer struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	When    time.Time `json:"when"` // by that host's clock
	Told    Told      `json:"told"`
	Problem string    `json:"problem,omitempty"` // why it is not known what it has told
	Inodes  bool      `json:"inodes"`            // its inode numbers are those of this host
	Locks   Crossing  `json:"locks,omitempty"`   // what it has found out
	Stray   bool      `json:"stray,omitempty"`   // it tells by another engine than this host
}

// A View is what is on record of a storage, as this host reads it.
type View struct {
	UUID       string   `json:"uuid"`
	By         string   `json:"by,omitempty"` // the store by which its hosts tell each other; "": they do on the storage itself
	Mine       Told     `json:"mine"`         // what this host has told last
	Registered bool     `json:"registered"`   // this host is on record
	Locks      Crossing `json:"locks"`        // what this host has found out of them
	Generation uint64   `json:"generation"`   // another one whenever somebody has told something
	Peers      []Peer   `json:"peers"`

	told time.Time // when this host has told last; zero if it has not
}

// A Crossing says whether locks reach other hosts.
type Crossing string

// What is known of it.
const (
	CrossingUnknown Crossing = ""
	LocksCross      Crossing = "cross"
	LocksStay       Crossing = "stay" // a host was at work, and its lock was not seen
)

// ErrNoSuchHost says that no such host is on record.
var ErrNoSuchHost = errors.New("no such host is on record")
