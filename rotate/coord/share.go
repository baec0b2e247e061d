package coord

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Subdirectory is where hosts tell each other, in the directory of a storage.
const Subdirectory = vfs.Records

// mostTold is the most bytes that a host may tell: some 100,000 layers.
const mostTold = 16 << 20

// Bytes that are locked, all of them far beyond the end of any of the files.
const (
	lockTable    = 1 << 40   // of hosts, and of what a host has told: who reads or writes it
	lockPresence = 1<<40 + 1 // of beats: and the place of a host that is at work
	lockSlot     = 1<<40 + 1 // of slots: and the number of the slot
)

// A share is a storage that other hosts have, too: what they tell each other is in files on it.
//
//	storage.json   the storage's UUID; made once, under its final name at once
//	hosts          a record of each host, see record
//	users-N-0, -1  what the host of place N has told; the record says in which
//	beats          a counter of each host that is at work, which holds the byte of its place
//	slots          bytes that hosts lock while they merge
//
// Who tells something holds the table of hosts for writing, from before it reads until its
// record is durable.
//
// A share without a directory is of block devices: only a Store can have what hosts tell of it.
type share struct {
	dir   string
	dev   uint64
	fleet *Fleet

	mu     sync.Mutex         // guards all below
	read   map[string]reading // by the host's ID
	found  Crossing
	place  int // of this host; -1: not known yet
	broken error
	since  time.Time // when broken was
	swept  bool      // see sweep
}

// A reading is what a host had told when that was read last.
type reading struct {
	sum  string
	told Told
}

func newShare(dir string, f *Fleet) *share {
	s := &share{dir: dir, fleet: f, read: map[string]reading{}, place: -1}
	if dev, err := deviceOf(dir); err == nil {
		s.dev = dev
	}
	return s
}

func (s *share) Dir() string { return cmp.Or(s.dir, devicesName) }

// placeless tells that it is of block devices, and has no files.
func (s *share) placeless() bool { return s.dir == "" }

func (s *share) path(name string) string { return filepath.Join(s.dir, Subdirectory, name) }

func (s *share) Records() (string, error) {
	if s.placeless() {
		return "", fs.ErrNotExist
	}
	dir := filepath.Join(s.dir, Subdirectory)
	return dir, s.checkDir()
}

// UUID is "" where nobody has told anything yet.
func (s *share) UUID() string {
	id, err := s.identity()
	if err != nil {
		return ""
	}
	return id
}

// Locate names files of the storage by their path below its directory; those that this host
// has somewhere else, by their inode.
func (s *share) Locate(path string, dev, ino uint64) (Layer, bool) {
	l := Layer{Path: path}
	if s.placeless() {
		return l, false
	}
	if dev == s.dev {
		l.Ino = ino
	}
	if rest, ok := strings.CutPrefix(path, strings.TrimSuffix(s.dir, "/")+"/"); ok {
		l.Path = rest
		return l, true
	}
	return l, l.Ino != 0
}

// identityFile is storage.json.
type identityFile struct {
	Version int    `json:"version"`
	UUID    string `json:"uuid"`
}

// identity reads the storage's UUID; the error is fs.ErrNotExist where it has none yet.
func (s *share) identity() (string, error) {
	if s.placeless() {
		return devicesUUID, nil
	}
	if err := s.checkDir(); err != nil {
		return "", err
	}
	f, err := vfs.OpenLockFile(s.path("storage.json"), false, false)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := f.Content(4096)
	if err != nil {
		return "", err
	}
	var id identityFile
	if err := json.Unmarshal(data, &id); err != nil || id.Version != 1 || !isUUID(id.UUID) {
		return "", fmt.Errorf("%s: not as virt-rotate of this version writes it", s.path("storage.json"))
	}
	return id.UUID, nil
}

// checkDir refuses a directory that others could have written to.
func (s *share) checkDir() error {
	path := filepath.Join(s.dir, Subdirectory)
	fi, err := vfs.LstatFresh(path)
	switch {
	case err != nil:
		return err
	case !fi.IsDir():
		return fmt.Errorf("%s: is no directory", path)
	case fi.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s: others can write to it (mode %04o): chmod 0700", path, fi.Mode().Perm())
	}
	return s.fleet.checkOwner(path, fi)
}

// create makes the directory and gives the storage its UUID, unless it has one. Whoever comes
// at the same time ends with the same one; what a crash leaves is done again.
func (s *share) create() (string, error) {
	if s.placeless() {
		return s.identity()
	}
	path := filepath.Join(s.dir, Subdirectory)
	if err := os.Mkdir(path, 0o700); err == nil {
		err = vfs.SyncDir(s.dir)
		if err != nil {
			return "", err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	id, err := s.identity()
	if !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	s.fleet.boundary("before the storage has a UUID")
	data, err := json.Marshal(identityFile{1, newUUID()})
	if err != nil {
		return "", err
	}
	temp := s.path(".virt-rotate-" + newUUID() + ".tmp")
	if err := vfs.WriteFile(temp, append(data, '\n'), 0o600); err != nil {
		return "", err
	}
	s.fleet.boundary("before the UUID has its name")
	if err := vfs.RenameNew(temp, s.path("storage.json")); err != nil {
		if removed := os.Remove(temp); removed != nil || !errors.Is(err, fs.ErrExist) {
			return "", errors.Join(err, removed)
		}
	}
	return s.identity()
}

// View reads what all hosts have told. Where nobody has, it is empty.
func (s *share) View(ctx context.Context) (View, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil && time.Since(s.since) < repeatAfter {
		return View{}, s.broken // each of many looks would wait for the same
	}
	v, err := s.view(ctx)
	s.broken, s.since = nil, time.Now()
	if ctx.Err() == nil {
		s.broken = err
	}
	return v, err
}

func (s *share) view(ctx context.Context) (View, error) {
	id, err := s.identity()
	if errors.Is(err, fs.ErrNotExist) {
		return s.untouched(ctx)
	}
	if err != nil {
		return View{}, err
	}
	state, err := loadState(s.fleet.StateDir)
	if err != nil {
		return View{}, err
	}
	var v View
	err = s.ledger(id).with(ctx, false, func(t table) error {
		if state.ID == "" {
			state.ID, _ = s.before(t)
		}
		v, err = s.look(ctx, t, state.ID)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) { // a crash before the first host was on record
		err = nil
	}
	v.UUID = id
	return v, err
}

// untouched is what is known of a storage on which nobody has told anything. Whether a store can be
// asked is found out all the same: what is told first is told there.
func (s *share) untouched(ctx context.Context) (View, error) {
	if s.fleet.Store == nil {
		return View{}, nil
	}
	v := View{By: s.fleet.Store.String()}
	if _, _, err := s.fleet.Store.List(ctx, "storages/none/"); err != nil {
		return v, fmt.Errorf("%s: %w", v.By, err)
	}
	return v, nil
}

// ledger is where the hosts tell each other what they use.
func (s *share) ledger(id string) ledger {
	if s.fleet.Store == nil {
		return files{s}
	}
	return central{s, s.fleet.Store, "storages/" + id + "/"}
}

// look reads what all hosts have told, wherever they do.
func (s *share) look(ctx context.Context, t table, me string) (View, error) {
	v := s.all(t, me)
	if s.fleet.Store == nil {
		return v, nil
	}
	v.By = s.fleet.Store.String()
	if s.placeless() {
		return v, nil
	}
	return v, s.strays(ctx, &v, me)
}

// all reads what the hosts of the table have told.
func (s *share) all(t table, me string) View {
	var v View
	inode := s.probe()
	for i := range t.places() {
		r, err := t.at(i)
		if errors.Is(err, errNoRecord) {
			continue
		}
		v.Generation += r.Generation + 1
		told, problem := Told{}, err
		if err == nil && (!r.Gone || r.ID == me) {
			told, problem = s.told(t, i, r)
		}
		switch {
		case err == nil && r.ID == me:
			v.Mine, v.Registered, v.Locks, v.told = told, !r.Gone, s.locks(r), r.When
			s.noted(t, i)
		case err != nil || !r.Gone:
			p := Peer{ID: r.ID, Name: printable(r.Name), When: r.When, Told: s.fleet.concerning(told), Inodes: inode != 0 && r.Inode == inode, Locks: r.Locks}
			if problem != nil {
				p.Problem = fmt.Sprintf("place %d: %v", i, problem)
			}
			v.Peers = append(v.Peers, p)
		}
	}
	return v
}

// probe is the inode of the storage's own file, by which hosts see whether their numbers are
// the same; 0: not known.
func (s *share) probe() uint64 {
	if s.placeless() {
		return 0
	}
	info, err := vfs.Lstat(s.path("storage.json"))
	if err != nil {
		return 0
	}
	return info.ID.Ino
}

func (s *share) usersFile(place, file int) string {
	return s.path(fmt.Sprintf("users-%d-%d", place, file))
}

// told reads what a host has told, if that is another text than the one read last.
func (s *share) told(t table, place int, r record) (Told, error) {
	if was, ok := s.read[r.ID]; ok && was.sum == r.Sum {
		return was.told, nil
	}
	data, err := t.users(place, r)
	if err != nil {
		return Told{}, err
	}
	if sum := sha256.Sum256(data); int64(len(data)) != r.Size || hex.EncodeToString(sum[:]) != r.Sum {
		return Told{}, errors.New("what it has told is not what its record says")
	}
	var told Told
	if err := json.Unmarshal(data, &told); err != nil {
		return Told{}, fmt.Errorf("what it has told: %w", err)
	}
	told.clean()
	s.read[r.ID] = reading{r.Sum, told}
	return told, nil
}

func (s *share) readUsers(place, file int) ([]byte, error) {
	f, err := vfs.OpenLockFile(s.usersFile(place, file), false, false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.TryLock(lockTable, false); err != nil { // so that a network file system looks anew
		return nil, err
	}
	return f.Content(mostTold)
}

// Tell puts on record what claim returns.
func (s *share) Tell(ctx context.Context, now time.Time, claim func(View) Told) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = nil
	id, err := s.create()
	if err != nil {
		return err
	}
	s.sweep()
	alone, err := s.fleet.alone(ctx)
	if err != nil {
		return err
	}
	defer alone.Close()
	if s.fleet.Store != nil && !s.placeless() {
		if err := s.pointOut(ctx, now); err != nil {
			return err
		}
	}
	var state *hostState
	var told Told
	err = s.ledger(id).with(ctx, true, func(t table) error {
		if state, err = s.whoAmI(t, s.key(id)); err != nil {
			return err
		}
		v, err := s.look(ctx, t, state.ID)
		if err != nil {
			return err
		}
		v.UUID = id
		told = claim(v)
		return s.tell(t, state.ID, s.key(id), now, told)
	})
	if err != nil || s.fleet.Store == nil || s.placeless() {
		return err
	}
	return s.tellHere(ctx, state.ID, id, now, told)
}

// tell puts on record what a host tells; key is under which this host remembers that.
func (s *share) tell(t table, me, key string, now time.Time, told Told) error {
	data, err := json.Marshal(told)
	if err != nil {
		return err
	}
	if len(data) > mostTold {
		return fmt.Errorf("what this host uses takes %d bytes: at most %d can be told", len(data), mostTold)
	}
	place, was := placeOf(t, me)
	if place < 0 {
		if place, err = free(t); err != nil {
			return err
		}
		was, _ = t.at(place) // of whoever had the place before
		was = record{Generation: was.Generation, File: was.File}
	}
	sum := sha256.Sum256(data)
	r := record{ID: me, Name: s.fleet.name(), Generation: was.Generation + 1, When: now.UTC(), Inode: s.probe(),
		File: was.File, Size: int64(len(data)), Sum: hex.EncodeToString(sum[:]), Locks: s.locks(was), Mount: s.fleet.mount(s.dev)}
	if err := s.remember(key, r.Generation); err != nil {
		return err
	}
	s.fleet.boundary("before the users are told")
	if r.Sum != was.Sum {
		r.File = 1 - was.File
		if err := t.tell(place, r, data); err != nil {
			return err
		}
	}
	s.fleet.boundary("before the record is written")
	s.noted(t, place)
	return t.put(place, r)
}

// noted keeps which place on the storage itself this host has.
func (s *share) noted(t table, place int) {
	if _, here := t.(*fileTable); here {
		s.place = place
	}
}

// locks is what is known of them: what was found just now, else what was on record since the
// storage was mounted.
func (s *share) locks(was record) Crossing {
	if s.found != CrossingUnknown {
		return s.found
	}
	if was.Mount == s.fleet.mount(s.dev) {
		return was.Locks
	}
	return CrossingUnknown
}

// remember notes what is about to be told.
func (s *share) remember(key string, generation uint64) error {
	s.fleet.stateMu.Lock()
	defer s.fleet.stateMu.Unlock()
	state, err := loadState(s.fleet.StateDir)
	if err != nil {
		return err
	}
	state.Told[key] = generation
	if s.fleet.Store != nil && !s.placeless() && !slices.Contains(state.Dirs, s.dir) {
		state.Dirs = append(state.Dirs, s.dir)
	}
	return state.save(s.fleet.StateDir)
}

func (s *share) writeUsers(place, file int, data []byte) error {
	f, err := vfs.OpenLockFile(s.usersFile(place, file), true, true)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.TryLock(lockTable, true); err != nil {
		return err
	}
	if err := f.Replace(data); err != nil {
		return err
	}
	return vfs.SyncDir(filepath.Dir(s.usersFile(place, file)))
}
