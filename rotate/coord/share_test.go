package coord_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/tidy"
	"github.com/virt-rotate/virt-rotate/rotate/coord"
	"github.com/virt-rotate/virt-rotate/rotate/coord/coordtest"
)

func TestMain(m *testing.M) { os.Exit(tidy.Run(m.Run)) }

// A fleet is hosts that have one directory; each has a state directory of its own.
type fleet struct {
	dir   string
	hosts []*coord.Fleet
}

func newFleet(t *testing.T, n int) *fleet {
	f := &fleet{dir: t.TempDir()}
	for i := range n {
		f.hosts = append(f.hosts, f.host(t, fmt.Sprintf("host%d", i+1), t.TempDir()))
	}
	return f
}

func (f *fleet) host(_ *testing.T, name, state string) *coord.Fleet {
	return &coord.Fleet{StateDir: state, Shared: []string{f.dir}, Name: name, Wait: 5 * time.Second, Beat: 150 * time.Millisecond}
}

func (f *fleet) at(i int) coord.Storage { return storage(f.hosts[i]) }

func storage(f *coord.Fleet) coord.Storage { return f.All()[0] }

func (f *fleet) storages() []coord.Storage {
	var all []coord.Storage
	for i := range f.hosts {
		all = append(all, f.at(i))
	}
	return all
}

func TestAStorageOfManyHosts(t *testing.T) {
	coordtest.Suite(t, func(t *testing.T, n int) []coord.Storage { return newFleet(t, n).storages() })
}

func TestAStorageOfOneHost(t *testing.T) {
	coordtest.Suite(t, func(t *testing.T, _ int) []coord.Storage { return []coord.Storage{coord.NewLocal(t.TempDir())} })
}

func told(names ...string) coord.Told {
	what := coord.Told{Guests: []coord.Guest{}}
	for _, name := range names {
		what.Guests = append(what.Guests, coord.Guest{UUID: "u-" + name, Name: name, Layers: []coord.Layer{{Ino: 9, Path: name + ".qcow2", Active: true}}})
	}
	return what
}

func tell(t *testing.T, s coord.Storage, what coord.Told) {
	t.Helper()
	if err := tellErr(s, what); err != nil {
		t.Fatal(err)
	}
}

func tellErr(s coord.Storage, what coord.Told) error {
	return s.Tell(context.Background(), coordtest.Now, func(v coord.View) coord.Told { return coord.Claims(what, &v, nil) })
}

func view(t *testing.T, s coord.Storage) coord.View {
	t.Helper()
	v, err := s.View(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestNothingIsWrittenBeforeSomethingIsTold(t *testing.T) {
	f := newFleet(t, 1)
	view(t, f.at(0))
	if _, err := os.Lstat(filepath.Join(f.dir, coord.Subdirectory)); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	tell(t, f.at(0), told("web"))
	fi, err := os.Lstat(filepath.Join(f.dir, coord.Subdirectory))
	if err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", fi, err)
	}
}

func TestStorageOfThisHostAloneIsNotTouched(t *testing.T) {
	dir := t.TempDir()
	f := &coord.Fleet{StateDir: t.TempDir()}
	if on := f.On(dir); len(on) > 0 || len(f.All()) > 0 {
		t.Errorf("%v", on)
	}
}

// A host dies at each place of its first and of a later telling: what the others read is what
// it had told before or after, and it goes on.
func TestAHostDiesAnywhereWhileItTells(t *testing.T) {
	for places := 1; ; places++ {
		f := newFleet(t, 2)
		tell(t, f.at(1), told("db"))
		died := dieAt(f.hosts[0], places, func() { _ = tellErr(f.at(0), told("web")); _ = tellErr(f.at(0), told("web", "mail")) })
		v := view(t, f.at(1))
		for _, p := range v.Peers {
			if p.Problem != "" || len(p.Told.Guests) == 0 {
				t.Fatalf("place %d: %+v", places, p)
			}
		}
		again := f.host(t, "host1", f.hosts[0].StateDir)
		tell(t, storage(again), told("web", "mail"))
		if v := view(t, f.at(1)); len(v.Peers) != 1 || len(v.Peers[0].Told.Guests) != 2 || v.UUID == "" {
			t.Fatalf("place %d: %+v", places, v)
		}
		if !died {
			if places < 5 {
				t.Fatalf("only %d places", places)
			}
			return
		}
	}
}

// dieAt lets the host die at its n-th boundary; it tells whether there was one.
func dieAt(f *coord.Fleet, n int, do func()) (died bool) {
	f.Crash = func(string) {
		if n--; n == 0 {
			panic("dead")
		}
	}
	defer func() { died = recover() != nil }()
	do()
	return
}

func TestTheUUIDIsMadeOnce(t *testing.T) {
	f := newFleet(t, 2)
	died := dieAt(f.hosts[0], 2, func() { _ = tellErr(f.at(0), told("web")) }) // before the UUID has its name
	if !died {
		t.Fatal("it did not die")
	}
	tell(t, f.at(1), told("db"))
	first := f.at(1).UUID()
	tell(t, storage(f.host(t, "host1", t.TempDir())), told("web"))
	if f.at(1).UUID() != first || len(first) != 36 {
		t.Errorf("%q, then %q", first, f.at(1).UUID())
	}
}

// Whatever is damaged of another host's stands for everything: it is told as a problem.
func TestDamageIsTold(t *testing.T) {
	for name, damage := range map[string]func(dir string){
		"users cut off": func(dir string) { must(os.Truncate(usersFile(dir), 10)) },
		"users of another text": func(dir string) { // that can be read, and is as long
			data, err := os.ReadFile(usersFile(dir))
			must(err)
			must(os.WriteFile(usersFile(dir), []byte(strings.ReplaceAll(string(data), "web", "xyz")), 0o600))
		},
		"users gone":          func(dir string) { must(os.Remove(usersFile(dir))) },
		"users of a link":     func(dir string) { link(usersFile(dir)) },
		"users are a pipe":    func(dir string) { directory(usersFile(dir)) },
		"a record of noise":   func(dir string) { overwrite(filepath.Join(dir, "hosts"), strings.Repeat("x", 1024)) },
		"a record of no host": func(dir string) { overwrite(filepath.Join(dir, "hosts"), strings.Repeat("{}", 512)) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, 2)
			tell(t, f.at(0), told("web"))
			damage(filepath.Join(f.dir, coord.Subdirectory))
			v, err := f.at(1).View(context.Background())
			if err == nil && (len(v.Peers) != 1 || v.Peers[0].Problem == "") {
				t.Errorf("%+v", v)
			}
		})
	}
}

// A directory that is not as this program makes it is not believed.
func TestAStorageThatOthersCanWriteToIsRefused(t *testing.T) {
	for name, damage := range map[string]func(dir string){
		"mode": func(dir string) { must(os.Chmod(dir, 0o777)) },
		"link": func(dir string) { must(os.Rename(dir, dir+"x")); must(os.Symlink(dir+"x", dir)) },
		"UUID of none": func(dir string) {
			must(os.WriteFile(filepath.Join(dir, "storage.json"), []byte(`{"version":1,"uuid":"../../x"}`), 0o600))
		},
		"UUID as link": func(dir string) { link(filepath.Join(dir, "storage.json")) },
		"version": func(dir string) {
			must(os.WriteFile(filepath.Join(dir, "storage.json"), []byte(`{"version":2}`), 0o600))
		},
		"too long": func(dir string) { must(os.Truncate(filepath.Join(dir, "storage.json"), 1<<20)) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, 2)
			tell(t, f.at(0), told("web"))
			damage(filepath.Join(f.dir, coord.Subdirectory))
			if v, err := f.at(1).View(context.Background()); err == nil {
				t.Errorf("%+v", v)
			}
			if err := tellErr(f.at(1), told("db")); err == nil {
				t.Error("told")
			}
		})
	}
}

// Half a record is written as the power goes: the one before counts.
func TestARecordThatIsTornCostsOnlyItself(t *testing.T) {
	f := newFleet(t, 2)
	tell(t, f.at(0), told("web"))
	tell(t, f.at(0), told("web", "mail"))
	hosts := filepath.Join(f.dir, coord.Subdirectory, "hosts")
	data, err := os.ReadFile(hosts)
	must(err)
	for half, want := range map[int]int{0: 2, 512: 1} { // the first record is the older one
		torn := append([]byte{}, data...)
		copy(torn[half+100:half+400], make([]byte, 300))
		must(os.WriteFile(hosts, torn, 0o600))
		v := view(t, storage(f.host(t, "host2", t.TempDir())))
		if len(v.Peers) != 1 || v.Peers[0].Problem != "" || len(v.Peers[0].Told.Guests) != want {
			t.Errorf("half at %d: %+v", half, v)
		}
	}
}

// A virtual machine with virt-rotate in it was copied: the copy does not take the other's place.
func TestACopyOfAHostIsAHostOfItsOwn(t *testing.T) {
	for _, name := range []string{"copy", "host1"} { // with a name of its own, or without
		f := newFleet(t, 2)
		tell(t, f.at(0), told("web"))
		state := t.TempDir()
		data, err := os.ReadFile(filepath.Join(f.hosts[0].StateDir, "host.json"))
		must(err)
		must(os.WriteFile(filepath.Join(state, "host.json"), data, 0o600))
		if name == "host1" {
			tell(t, f.at(0), told("web")) // it has told since it was copied
			tell(t, storage(f.host(t, name, state)), told("other"))
		} else {
			tell(t, storage(f.host(t, name, state)), told("other"))
			if len(view(t, f.at(1)).Peers) != 2 {
				t.Error("the copy has taken the place of the other")
			}
			tell(t, f.at(0), told("web"))
		}
		all := map[string]bool{}
		for _, p := range view(t, f.at(1)).Peers {
			for _, g := range p.Told.Guests {
				all[g.Name] = !g.Left
			}
		}
		if !all["web"] || !all["other"] {
			t.Errorf("%s: %v", name, all)
		}
	}
}

// The state directory is lost: the same name since the same start of the machine is the same host.
func TestAHostWithoutItsStateIsItself(t *testing.T) {
	f := newFleet(t, 2)
	tell(t, f.at(0), told("web"))
	tell(t, storage(f.host(t, "host1", t.TempDir())), told("web", "mail"))
	if v := view(t, f.at(1)); len(v.Peers) != 1 || len(v.Peers[0].Told.Guests) != 2 {
		t.Errorf("%+v", v.Peers)
	}
}

func TestAHostIsForgottenByName(t *testing.T) {
	f := newFleet(t, 3)
	for i, name := range []string{"web", "db", "mail"} {
		tell(t, f.at(i), told(name))
	}
	if err := f.at(0).Forget(context.Background(), "host2"); err != nil {
		t.Fatal(err)
	}
	if v := view(t, f.at(2)); len(v.Peers) != 1 || v.Peers[0].Name != "host1" {
		t.Errorf("%+v", v.Peers)
	}
	if err := f.at(0).Forget(context.Background(), "host1"); !errors.Is(err, coord.ErrNoSuchHost) {
		t.Error("it forgot itself:", err)
	}
	tell(t, f.at(1), told("db")) // it was not gone, after all
	if v := view(t, f.at(2)); len(v.Peers) != 2 {
		t.Errorf("%+v", v.Peers)
	}
}

// An older claim does not come back to life when the host with the newer one is forgotten.
func TestAForgottenHostsClaimsAreRemembered(t *testing.T) {
	f := newFleet(t, 3)
	tell(t, f.at(0), told("web"))
	adopt(t, f.at(1), "web")
	tell(t, f.at(2), told("mail"))
	if err := f.at(2).Forget(context.Background(), "host2"); err != nil {
		t.Fatal(err)
	}
	v := view(t, f.at(0))
	if verdict := coord.Judge(&told("web").Guests[0], &v); verdict.Epoch != 0 || !strings.Contains(verdict.Why, "host3") {
		t.Errorf("%+v", verdict)
	}
}

func adopt(t *testing.T, s coord.Storage, name string) {
	t.Helper()
	must(s.Tell(context.Background(), coordtest.Now, func(v coord.View) coord.Told {
		what := told(name)
		epoch, err := coord.Adopt(&what.Guests[0], &v, "", nil)
		must(err)
		return coord.Claims(what, &v, map[string]uint64{"u-" + name: epoch})
	}))
}

func TestLocksThatCrossAreSeen(t *testing.T) {
	f := newFleet(t, 2)
	if found := crossing(t, f); found != coord.LocksCross {
		t.Errorf("%q", found)
	}
}

// Blind hosts are as on a file system that keeps locks to itself.
func TestLocksThatStayAreFoundOut(t *testing.T) {
	f := newFleet(t, 2)
	f.hosts[1].Blind = true
	if found := crossing(t, f); found != coord.LocksStay {
		t.Errorf("%q", found)
	}
	tell(t, f.at(1), told("db"))
	if v := view(t, f.at(0)); v.Peers[0].Locks != coord.LocksStay {
		t.Errorf("the other host is not told: %+v", v.Peers)
	}
}

func crossing(t *testing.T, f *fleet) coord.Crossing {
	tell(t, f.at(0), told("web"))
	tell(t, f.at(1), told("db"))
	leave, err := f.at(0).Enter(context.Background())
	must(err)
	defer leave()
	found, err := f.at(1).Locks(context.Background())
	must(err)
	return found
}

// A host that died while it was at work counts no more: that says nothing of locks.
func TestAHostThatDiedIsNoSignOfLocksThatStay(t *testing.T) {
	f := newFleet(t, 2)
	tell(t, f.at(0), told("web"))
	tell(t, f.at(1), told("db"))
	must(os.WriteFile(filepath.Join(f.dir, coord.Subdirectory, "beats"), fmt.Appendf(nil, "%016x%015d\n", 77, 5), 0o600))
	if found, err := f.at(1).Locks(context.Background()); err != nil || found != coord.CrossingUnknown {
		t.Errorf("%q %v", found, err)
	}
}

// Hosts that have mounted the storage at different levels hear of each other.
func TestASubdirectoryThatAnotherHostHasMounted(t *testing.T) {
	f := newFleet(t, 1)
	sub := filepath.Join(f.dir, "pool", "images")
	must(os.MkdirAll(sub, 0o755))
	lower := &coord.Fleet{StateDir: t.TempDir(), Shared: []string{filepath.Join(f.dir, "pool")}, Name: "lower"}
	tell(t, lower.On(sub)[0], told("db"))
	tell(t, f.at(0), told("web"))
	on := (&coord.Fleet{StateDir: f.hosts[0].StateDir, Shared: []string{f.dir}, Name: "host1"}).On(sub)
	if len(on) != 2 {
		t.Fatalf("%d storages", len(on))
	}
	peers := 0
	for _, s := range on {
		peers += len(view(t, s).Peers)
	}
	if peers != 1 {
		t.Errorf("%d peers", peers)
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func usersFile(dir string) string {
	found, err := filepath.Glob(filepath.Join(dir, "users-*"))
	must(err)
	return found[0]
}

func link(path string) {
	must(os.Rename(path, path+".x"))
	must(os.Symlink(path+".x", path))
}

func directory(path string) {
	must(os.Remove(path))
	must(os.Mkdir(path, 0o700))
}

func overwrite(path, text string) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(err)
	_, err = f.WriteAt([]byte(text), 0)
	must(err)
	must(f.Close())
}
