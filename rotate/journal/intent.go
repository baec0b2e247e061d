package journal

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
)

// intentVersion is the layout of the intent files; another one is refused. One with an
// adoption has a version of its own: what knows nothing of these would think it had nothing
// left to do.
const (
	intentVersion   = 1
	adoptionVersion = 2
)

// An Intent is what a run is about to do to one domain and what could not be
// seen in the world afterwards: which files it creates and which it will
// delete. It is on disk before the first step and gone after the last.
type Intent struct {
	Version int       `json:"version"`
	Domain  string    `json:"domain"`
	UUID    string    `json:"uuid"`
	Started time.Time `json:"started"`
	Quiesce bool      `json:"quiesce,omitempty"` // the guest may be frozen
	Paused  bool      `json:"paused,omitempty"`  // the guest may be paused, and not by anybody else
	Created []File    `json:"created,omitempty"` // overlays of a snapshot that is being taken
	// Firmware is the file that is being written with the firmware's state of that snapshot.
	Firmware *File     `json:"firmware,omitempty"`
	Memory   *File     `json:"memory,omitempty"` // that is being written with the guest's memory of that snapshot
	Drops    []string  `json:"drops,omitempty"`  // snapshots whose metadata goes
	Merges   []Merge   `json:"merges,omitempty"`
	Garbage  []File    `json:"garbage,omitempty"` // layers that nobody kept
	Adoption *Adoption `json:"adoption,omitempty"`
	Broken   string    `json:"-"` // why the file could not be read: what it protects is not known
}

// layout is the version of what the intent says.
func (in *Intent) layout() int {
	if in.Adoption != nil {
		return adoptionVersion
	}
	return intentVersion
}

// Lasting tells whether what the intent is about cannot be taken back, or tells what must not be: one without is about
// files that are made for a snapshot.
func (in *Intent) Lasting() bool {
	return in != nil && (len(in.Drops)+len(in.Merges)+len(in.Garbage) > 0 || in.Adoption != nil)
}

// Explains tells whether metadata that contradicts the chain is the run's own
// doing: when the intent was written, all of it agreed. libvirt 9 changes the
// children of a snapshot that goes as if its layer had been merged.
func (in *Intent) Explains() bool { return in != nil && len(in.Drops)+len(in.Merges) > 0 }

// A Merge is one merge: the files that go, lowest first, and where their data goes.
type Merge struct {
	Disk  string `json:"disk"`
	Base  string `json:"base"`
	Gone  []File `json:"gone"`
	Pivot bool   `json:"pivot,omitempty"` // in the end the running guest writes to the base
	Pull  string `json:"pull,omitempty"`  // data moves up, into the layer at this path
	// Branch says that no disk has the layers in its chain, and Done that the base has
	// all of their data.
	Branch bool `json:"branch,omitempty"`
	Done   bool `json:"done,omitempty"`
	// Graft says that others take the place of the layers in Gone, the lowest of which
	// is Base.
	Graft *Graft `json:"graft,omitempty"`
}

// A Kind tells the ways to merge apart.
type Kind string

// The kinds; a detach is a pull after which nothing goes.
const (
	KindCommit Kind = "commit"
	KindPull   Kind = "pull"
	KindGraft  Kind = "graft"
	KindBranch Kind = "branch" // a commit of layers that no disk has in its chain
)

// Kind tells which way it is.
func (m *Merge) Kind() Kind {
	switch {
	case m.Graft != nil:
		return KindGraft
	case m.Branch:
		return KindBranch
	case m.Pull != "":
		return KindPull
	}
	return KindCommit
}

// A Graft names what takes the place of the layers of a graft: the lists are
// parallel to Gone.
type Graft struct {
	Next []File `json:"next"`
	Goes []bool `json:"goes"` // the layer is merged into the one below, and Next is for that only
	// Ready is since when the guest may be on the new layers, whatever libvirt says.
	Ready time.Time `json:"ready,omitzero"`
}

// A File names exactly one file. The ID is zero for a file that may
// not have been created yet.
type File struct {
	Path string `json:"path"`
	ID   vfs.ID `json:"id"`
	// Written is when the file was last written to, in nanoseconds since 1970, if
	// nobody was to write to it any more; else 0.
	Written int64 `json:"written,omitempty"`
	// Asked tells that a person has asked for the end of the snapshot that the layer came
	// with: it goes whatever it is called.
	Asked bool `json:"asked,omitempty"`
}

// A Journal keeps the intents: one file a domain in a directory of its own.
type Journal struct{ dir string }

// In is the journal in a state directory.
func In(stateDir string) Journal {
	return Journal{filepath.Join(stateDir, "intents")}
}

func (j Journal) path(uuid string) string { return filepath.Join(j.dir, uuid+".json") }

// Write puts the intent on stable storage.
func (j Journal) Write(in Intent) error {
	if err := os.MkdirAll(j.dir, 0o700); err != nil {
		return err
	}
	in.Version = in.layout()
	data, err := json.MarshalIndent(in, "", "  ")
	if err != nil {
		return err
	}
	return vfs.WriteFile(j.path(in.UUID), append(data, '\n'), 0o600)
}

// Remove forgets the domain's intent; none is no error.
func (j Journal) Remove(uuid string) error { return forget(j.path(uuid)) }

// forget removes a record; none is no error.
func forget(path string) error {
	err := vfs.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// recordsIn lists the domains that have a record in dir, by UUID; none where there is no such directory.
func recordsIn(dir string) (uuids []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if uuid, ok := strings.CutSuffix(e.Name(), ".json"); ok {
			uuids = append(uuids, uuid)
		}
	}
	return uuids, nil
}

// Sweep removes the temporary files of a run that was killed while it wrote.
// The caller holds the Lock.
func Sweep(stateDir string) error {
	for _, dir := range []string{stateDir, In(stateDir).dir, MovesIn(stateDir).dir} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if stale, _ := filepath.Match(vfs.TempPattern, e.Name()); !stale {
				continue
			}
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Load reads all intents, by UUID. One that cannot be read is there as broken.
func (j Journal) Load() (map[string]*Intent, error) {
	uuids, err := recordsIn(j.dir)
	if err != nil {
		return nil, err
	}
	intents := map[string]*Intent{}
	for _, uuid := range uuids {
		in, err := j.Read(uuid)
		if errors.Is(err, fs.ErrNotExist) { // another domain's run has just ended it
			continue
		}
		if err != nil {
			in = &Intent{UUID: uuid, Broken: err.Error()}
		}
		intents[uuid] = in
	}
	return intents, nil
}

func (j Journal) Read(uuid string) (*Intent, error) {
	data, err := os.ReadFile(j.path(uuid))
	if err != nil {
		return nil, err
	}
	in := &Intent{}
	if err := json.Unmarshal(data, in); err != nil {
		return nil, fmt.Errorf("%s: intent of an earlier run: %w", j.path(uuid), err)
	}
	if in.Version != in.layout() || in.UUID != uuid {
		return nil, fmt.Errorf("%s: intent of version %d for %q: not one of this version of virt-rotate",
			j.path(uuid), in.Version, in.UUID)
	}
	return in, nil
}

// Names tells whether the intent names the file.
func (in *Intent) Names(path string) bool {
	return in != nil && slices.Contains(in.paths(), path)
}
