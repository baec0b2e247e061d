// Package history is the log of what runs did: one entry for each domain and
// run, in one bbolt file in the state directory. It is a report, nothing else:
// no decision rests on it.
//
// What holds:
//   - The file is open, and locked, only while an entry is written or entries are
//     read, never while a run works or a reader prints. Whoever waits for
//     the lock gives up after Store.Patience.
//   - An entry is on stable storage when Append returns. A crash in between
//     leaves the entries before it.
//   - A file that is damaged, whatever is in it, costs an error, not the process: its
//     pages are checked before bbolt maps it. Append keeps it under another name.
//   - There are at most Store.Max entries; the oldest go. Clocks play no part.
//
// The package knows nothing of libvirt and nothing of rotation.
package history

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"slices"
	"strings"
	"time"
)

// An Entry is what one run did to one domain. Sizes are bytes.
type Entry struct {
	Start     time.Time `json:"start"`
	End       time.Time `json:"end"`
	Command   string    `json:"command"` // run, restore
	Domain    string    `json:"name"`
	UUID      string    `json:"uuid"`
	Policy    string    `json:"policy"`
	Result    string    `json:"result"`
	Error     string    `json:"error,omitempty"`
	Refused   []Refusal `json:"refused,omitempty"`
	Warnings  []string  `json:"warnings,omitempty"`
	Waiting   string    `json:"waiting,omitempty"` // why merges were put off
	Steps     []Step    `json:"steps"`
	LeftOut   int       `json:"steps-left-out,omitempty"` // steps beyond maxSteps
	Merged    int64     `json:"merged"`                   // data in the layers that were merged
	Freed     int64     `json:"freed"`                    // allocated by the files that were deleted
	Allocated int64     `json:"allocated"`                // by the chains of the domain afterwards
	Layers    int       `json:"layers"`                   // of the longest chain afterwards
	Runs      int       `json:"runs"`                     // how many runs in a row the entry stands for
	Took      float64   `json:"took,omitempty"`           // seconds, the last of these runs
}

// A Step is one thing that was done.
type Step struct {
	Op       string `json:"op"`
	Snapshot string `json:"snapshot,omitempty"`
	Disk     string `json:"disk,omitempty"`
	Method   string `json:"method,omitempty"`
	Top      string `json:"top,omitempty"`
	Base     string `json:"base,omitempty"`
	Path     string `json:"path,omitempty"`
	Bytes    int64  `json:"bytes,omitempty"`
}

// A Refusal says what was not done, and why.
type Refusal struct {
	Code   string `json:"code"`
	Path   string `json:"path,omitempty"`
	Detail string `json:"detail"`
}

// Bounds of one entry: a run of hundreds of steps, or an error of many pages, must
// not fill the file.
const (
	maxSteps = 200
	maxTexts = 20
	maxText  = 2000 // bytes
)

// bounded returns e within the bounds; e itself stays as it is.
func bounded(e Entry) Entry {
	e.Error, e.Waiting = shorten(e.Error), shorten(e.Waiting)
	if n := len(e.Steps) - maxSteps; n > 0 {
		e.Steps, e.LeftOut = e.Steps[:maxSteps], n
	}
	if e.Steps == nil {
		e.Steps = []Step{}
	}
	e.Refused = slices.Clone(e.Refused[:min(len(e.Refused), maxTexts)])
	for i := range e.Refused {
		e.Refused[i].Detail = shorten(e.Refused[i].Detail)
	}
	e.Warnings = slices.Clone(e.Warnings[:min(len(e.Warnings), maxTexts)])
	for i := range e.Warnings {
		e.Warnings[i] = shorten(e.Warnings[i])
	}
	e.Runs = max(e.Runs, 1)
	return e
}

func shorten(text string) string {
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	return text
}

// saysTheSame tells whether neither entry has done anything and both tell the
// same: a guest that has nothing to do every hour needs no line for each.
func saysTheSame(a, b *Entry) bool {
	return len(a.Steps)+len(b.Steps) == 0 && a.Command == b.Command && a.Domain == b.Domain && a.UUID == b.UUID &&
		a.Policy == b.Policy && a.Result == b.Result && a.Error == b.Error && a.Waiting == b.Waiting &&
		slices.Equal(a.Refused, b.Refused) && slices.Equal(a.Warnings, b.Warnings)
}

// A key is the number of the entry, 8 bytes, big endian. A value is:
//
//	0  CRC-32C of the key and of the rest, big endian
//	4  JSON
const (
	keyLen = 8
	sumLen = 4
)

func checksum(key, data []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(key, table), table, data)
}

func encode(key []byte, e *Entry) ([]byte, error) {
	data := bytes.NewBuffer(make([]byte, sumLen))
	enc := json.NewEncoder(data)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		return nil, err
	}
	b := data.Bytes()
	binary.BigEndian.PutUint32(b, checksum(key, b[sumLen:]))
	return b, nil
}

var errChecksum = errors.New("an entry is not what was written")

func decode(key, b []byte) (*Entry, error) {
	if len(key) != keyLen || len(b) < sumLen || binary.BigEndian.Uint32(b) != checksum(key, b[sumLen:]) {
		return nil, errChecksum
	}
	var e Entry
	if err := json.Unmarshal(b[sumLen:], &e); err != nil {
		return nil, err
	}
	return &e, nil
}
