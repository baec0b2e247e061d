package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// libvirt moves no guest that has snapshots, whose metadata is of one host. A Move has all of
// it while libvirt has none: in the state directory of the host that began, and on the storage,
// from where the other host reads it. There, it is another's word: bounded, and checked.

// A Move is the migration of a guest.
type Move struct {
	Version   int                 `json:"version"`
	ID        string              `json:"id"` // of this move, and of no other
	Domain    string              `json:"domain"`
	UUID      string              `json:"uuid"`
	From      string              `json:"from"` // the name of the host that began
	To        string              `json:"to"`   // the other host's libvirt
	Started   time.Time           `json:"started"`
	Offline   bool                `json:"offline,omitempty"` // the guest was off
	Moving    bool                `json:"moving,omitempty"`  // libvirt may have begun: in the state directory only
	Shared    []string            `json:"shared,omitempty"`  // directories that have this record, too, before the state directory does
	Snapshots []host.SnapshotText `json:"snapshots"`         // parents first

	Broken string `json:"-"` // why the file could not be read
	Here   bool   `json:"-"` // this host began it: it is on record in the state directory
}

const (
	moveVersion = 1
	// mostMove is the size of a record, in bytes: the metadata of one snapshot has some 20 KiB.
	mostMove = 64 << 20
	// mostMoved is the most snapshots of a guest.
	mostMoved = 10_000
)

// Moves keeps the records: one file a domain, in a directory of its own.
type Moves struct{ dir string }

// MovesIn are those in a state directory, or in the directory where hosts tell each other.
func MovesIn(dir string) Moves { return Moves{filepath.Join(dir, "moves")} }

func (j Moves) path(uuid string) string { return filepath.Join(j.dir, uuid+".json") }

// Write puts the record on stable storage.
func (j Moves) Write(m *Move) error {
	if len(m.Snapshots) > mostMoved {
		return fmt.Errorf("%d snapshots are too many to be put on record", len(m.Snapshots))
	}
	m.Version = moveVersion
	return writeRecord(j.path(m.UUID), m.UUID, m, mostMove)
}

// Read returns the record of a domain; nil for none. One that cannot be read is there as broken.
func (j Moves) Read(uuid string) *Move {
	m, err := j.read(uuid)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &Move{UUID: uuid, Broken: err.Error()}
	}
	return m
}

func (j Moves) read(uuid string) (*Move, error) {
	m := &Move{}
	if err := readRecord(j.path(uuid), uuid, m, mostMove); err != nil {
		return nil, err
	}
	if why := m.wrong(uuid); why != "" {
		return nil, fmt.Errorf("%s: the record of a migration: %s", j.path(uuid), why)
	}
	return m, nil
}

// wrong says what is not as this version writes it.
func (m *Move) wrong(uuid string) string {
	switch {
	case m.Version != moveVersion:
		return fmt.Sprintf("version %d is not one of this version of virt-rotate", m.Version)
	case m.UUID != uuid:
		return fmt.Sprintf("it is of the domain %q", m.UUID)
	case m.ID == "" || len(m.Snapshots) > mostMoved:
		return "it has no ID, or too many snapshots"
	}
	return wrongTexts(m.Snapshots)
}

// Remove forgets the record of a domain; none is no error.
func (j Moves) Remove(uuid string) error {
	if !isUUID(uuid) {
		return nil
	}
	return forget(j.path(uuid))
}

// Load reads all records, by UUID.
func (j Moves) Load() (map[string]*Move, error) {
	uuids, err := recordsIn(j.dir)
	if err != nil {
		return nil, err
	}
	moves := map[string]*Move{}
	for _, uuid := range uuids {
		if m := j.Read(uuid); m != nil {
			m.Here = true
			moves[uuid] = m
		}
	}
	return moves, nil
}

// Any tells whether there may be a record at all: most directories have none.
func (j Moves) Any() bool {
	_, err := os.Lstat(j.dir)
	return err == nil
}

// mostText is how much of a text of another host is taken, in bytes.
const mostText = 512

// Tame takes out of another host's record what could confuse a terminal; the guest is called as here.
func (m *Move) Tame(domain string) {
	m.Domain = domain
	for _, text := range []*string{&m.From, &m.To} {
		*text = strings.Map(func(r rune) rune {
			if !unicode.IsPrint(r) {
				return '?'
			}
			return r
		}, strings.ToValidUTF8((*text)[:min(len(*text), mostText)], "?"))
	}
}

// Named tells how the record calls the guest.
func (m *Move) Named() string {
	if m.Domain == "" {
		return m.UUID
	}
	return m.Domain
}
