package coord

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A hostState is what a host remembers of itself, in STATE/host.json: who it is, and what it
// has told last. Another generation on the storage tells that somebody else has its identity.
type hostState struct {
	Version int               `json:"version"`
	ID      string            `json:"id"`
	Told    map[string]uint64 `json:"told"` // generations, by the UUID of the storage, with the engine's name before it
	// Dirs are where this host has told by a store: there it tells also once no guest of it has anything there.
	Dirs []string `json:"dirs,omitempty"`
}

func stateFile(dir string) string { return filepath.Join(dir, "host.json") }

// loadState returns an empty one where there is none.
func loadState(dir string) (*hostState, error) {
	s := &hostState{Version: 1, Told: map[string]uint64{}}
	data, err := os.ReadFile(stateFile(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, s); err != nil || s.Version != 1 || s.ID != "" && !isUUID(s.ID) {
		return nil, fmt.Errorf("%s: not as virt-rotate writes it: if nobody knows why, remove it; this host is another one for all others then", stateFile(dir))
	}
	if s.Told == nil {
		s.Told = map[string]uint64{}
	}
	return s, nil
}

func (s *hostState) save(dir string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return vfs.WriteFile(stateFile(dir), append(data, '\n'), 0o600)
}

// alone waits until no other process of this host tells anything: what each remembers of it would be mistaken for another
// host's by the other.
func (f *Fleet) alone(ctx context.Context) (*vfs.LockFile, error) {
	if err := os.MkdirAll(f.StateDir, 0o700); err != nil {
		return nil, err
	}
	file, err := vfs.OpenLockFile(filepath.Join(f.StateDir, "tell.lock"), true, true)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(f.Wait, defaultWait))
	defer cancel()
	if err := file.Lock(ctx, 0, true); err != nil {
		return nil, errors.Join(fmt.Errorf("another virt-rotate on this host tells something for too long: %w", err), file.Close())
	}
	return file, nil
}

// newUUID is a random one, of version 4.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// whoAmI is this host's identity: a new one where it has none, or where another host has
// taken it, as happens to copies of a virtual machine.
func (s *share) whoAmI(t table, key string) (*hostState, error) {
	s.fleet.stateMu.Lock()
	defer s.fleet.stateMu.Unlock()
	state, err := loadState(s.fleet.StateDir)
	if err != nil {
		return nil, err
	}
	if state.ID == "" {
		state.ID, state.Told[key] = s.before(t)
	}
	_, r := placeOf(t, state.ID)
	if state.ID == "" || r.ID != "" && (r.Name != s.fleet.name() || r.Generation > state.Told[key]) {
		state = &hostState{Version: 1, ID: newUUID(), Told: map[string]uint64{}}
		return state, state.save(s.fleet.StateDir)
	}
	return state, nil
}

// before is who this host was when its state directory was lost: a host of this name has told
// something since this start of this very machine. After another start that could be a copy.
func (s *share) before(t table) (id string, generation uint64) {
	for i := range t.places() {
		if r, err := t.at(i); err == nil && !r.Gone && r.Name == s.fleet.name() && r.Mount == s.fleet.mount(s.dev) {
			if id != "" {
				return "", 0
			}
			id, generation = r.ID, r.Generation
		}
	}
	return id, generation
}
