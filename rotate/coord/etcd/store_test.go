package etcd_test

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
	"github.com/virt-rotate/virt-rotate/rotate/coord/etcd"
	"github.com/virt-rotate/virt-rotate/rotate/coord/etcd/etcdtest"
)

func TestMain(m *testing.M) {
	etcdtest.Member()
	os.Exit(tidy.Run(m.Run))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// storeOf is one host's way to the cluster.
func storeOf(t testing.TB, c *etcdtest.Cluster, prefix string) *etcd.Store {
	s := etcd.New(etcd.Config{Endpoints: c.Endpoints, Prefix: prefix, Timeout: 10 * time.Second, TTL: 5 * time.Second})
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// A house is hosts that have one directory and one cluster.
type house struct {
	dir   string
	hosts []*coord.Fleet
}

func newHouse(t testing.TB, c *etcdtest.Cluster, n int) *house {
	h := &house{dir: t.TempDir()}
	prefix := "/test/" + filepath.Base(h.dir) + "/" + t.Name()
	for i := range n {
		h.hosts = append(h.hosts, &coord.Fleet{StateDir: t.TempDir(), Shared: []string{h.dir}, Name: fmt.Sprintf("host%d", i+1),
			Wait: time.Minute, Beat: 150 * time.Millisecond, Store: storeOf(t, c, prefix)})
	}
	return h
}

func (h *house) at(i int) coord.Storage { return h.hosts[i].All()[0] }

func (h *house) storages() (all []coord.Storage) {
	for i := range h.hosts {
		all = append(all, h.at(i))
	}
	return all
}

func TestHostsTellEachOtherByACluster(t *testing.T) {
	c := etcdtest.Start(t, 3)
	coordtest.Suite(t, func(t *testing.T, n int) []coord.Storage { return newHouse(t, c, n).storages() })
}

func told(names ...string) (what coord.Told) {
	for _, name := range names {
		what.Guests = append(what.Guests, coord.Guest{UUID: "u-" + name, Name: name, Layers: []coord.Layer{{Ino: 9, Path: name + ".qcow2"}}})
	}
	return what
}

func tell(s coord.Storage, what coord.Told) error { return tellAt(s, time.Now(), what) }

func tellAt(s coord.Storage, now time.Time, what coord.Told) error {
	return s.Tell(context.Background(), now, func(v coord.View) coord.Told { return coord.Claims(what, &v, nil) })
}

func view(t testing.TB, s coord.Storage) coord.View {
	t.Helper()
	v, err := s.View(context.Background())
	must(t, err)
	return v
}

// Two of three members are gone: nothing can be told or asked, which is said, and all of it is
// there when they come back.
func TestALostQuorumIsToldAndNothingIsLost(t *testing.T) {
	c := etcdtest.Start(t, 3)
	h := newHouse(t, c, 2)
	must(t, tell(h.at(0), told("web")))
	c.Kill(1)
	c.Wait()
	must(t, tell(h.at(1), told("db"))) // two of three are enough
	c.Freeze(2)
	if err := tell(h.at(0), told("web", "new")); err == nil || !strings.Contains(err.Error(), "too few of them") {
		t.Errorf("without a quorum: %v", err)
	}
	if _, err := h.at(1).View(context.Background()); err == nil {
		t.Error("without a quorum there is a view")
	}
	c.Thaw(2)
	c.Run(1)
	c.Wait()
	must(t, tell(h.at(0), told("web", "new")))
	must(t, tell(h.at(1), told("db")))
	v := view(t, h.at(1))
	if v.Mine.Guest("u-db") == nil || len(v.Peers) != 1 || v.Peers[0].Told.Guest("u-new") == nil {
		t.Errorf("%+v", v)
	}
}

// The members' certificate is verified, by the authority that the policy names.
func TestTheClusterIsReachedByTLS(t *testing.T) {
	c := etcdtest.StartTLS(t)
	s := etcd.New(etcd.Config{Endpoints: c.Endpoints, CAFile: c.CAFile, Timeout: 10 * time.Second})
	defer s.Close()
	must(t, s.Change(context.Background(), "hosts/", 0, map[string][]byte{"hosts/0": []byte("x")}))
	values, _, err := s.List(context.Background(), "hosts/")
	must(t, err)
	if string(values["hosts/0"]) != "x" {
		t.Errorf("%q", values)
	}
	stranger := etcd.New(etcd.Config{Endpoints: c.Endpoints, Timeout: time.Second})
	defer stranger.Close()
	if _, _, err := stranger.List(context.Background(), "hosts/"); err == nil {
		t.Error("a certificate of nobody is believed")
	} else if !strings.Contains(err.Error(), "certificate") {
		t.Errorf("nothing tells that the certificate is of nobody: %v", err)
	}
}

// A slot whose lease ends while its host sleeps is somebody else's, and its host is told so.
func TestALostSlotIsNoticed(t *testing.T) {
	c := etcdtest.Start(t, 1)
	s := etcd.New(etcd.Config{Endpoints: c.Endpoints, TTL: time.Second, Timeout: 3 * time.Second})
	defer s.Close()
	h, err := s.Hold(context.Background(), "slots/", 1)
	must(t, err)
	must(t, h.Err())
	c.Freeze(0)
	time.Sleep(3 * time.Second)
	if h.Err() == nil {
		t.Error("nobody can tell whether the slot is held, and it is believed")
	}
	c.Thaw(0)
	other, err := storeOf(t, c, "").Hold(context.Background(), "slots/", 1)
	must(t, err)
	if h.Err() == nil {
		t.Error("a slot that another one has is believed to be held")
	}
	must(t, other.Err())
	h.Release() // what is another one's is not given back
	must(t, other.Err())
	other.Release()
}

// Hosts that have moved to a cluster, and hosts that have not: none merges, and nobody forgets
// whose a guest is.
func TestHostsMoveToAClusterOneAfterTheOther(t *testing.T) {
	c := etcdtest.Start(t, 1)
	h := newHouse(t, c, 2)
	stores := []coord.Store{h.hosts[0].Store, h.hosts[1].Store}
	old := []*coord.Fleet{}
	for i := range h.hosts {
		f := &coord.Fleet{StateDir: h.hosts[i].StateDir, Shared: h.hosts[i].Shared, Name: h.hosts[i].Name}
		must(t, tell(f.All()[0], told("web"))) // the second one has an old definition of it
		old = append(old, f)
	}
	must(t, tell(h.at(0), told("web")))
	v := view(t, old[1].All()[0])
	if !doubtful(v, stores[0].String()) {
		t.Errorf("a host on the storage does not know that another one is elsewhere: %+v", v.Peers)
	}
	if v = view(t, h.at(0)); len(v.Peers) != 1 || !strings.Contains(v.Peers[0].Problem, "on the storage itself") {
		t.Errorf("a host that has not moved is not told of: %+v", v.Peers)
	}
	if v.Mine.Guest("u-web").Epoch != 1 {
		t.Errorf("the guest was owned: %+v", v.Mine)
	}
	must(t, tell(h.at(1), told("web")))
	v = view(t, h.at(1))
	if len(v.Peers) != 1 || v.Peers[0].Problem != "" || v.Mine.Guest("u-web").Epoch != 0 {
		t.Errorf("both have moved: %+v", v)
	}
	back := &coord.Fleet{StateDir: h.hosts[1].StateDir, Shared: h.hosts[1].Shared, Name: h.hosts[1].Name}
	must(t, back.All()[0].Forget(context.Background(), "store"))
	must(t, tell(back.All()[0], told("web")))
	if v = view(t, back.All()[0]); len(v.Peers) != 1 || v.Mine.Guest("u-web").Epoch != 0 {
		t.Errorf("a host that has moved back forgets: %+v", v)
	}
}

// doubtful tells whether a host says that it cannot tell all, and names what.
func doubtful(v coord.View, what string) bool {
	for _, p := range v.Peers {
		if len(p.Told.Doubts) > 0 && strings.Contains(p.Told.Doubts[0], what) {
			return true
		}
	}
	return false
}

// The cluster was made anew, without what it had: what is on the storage still counts.
func TestAClusterThatHasForgottenAllIsNotBelieved(t *testing.T) {
	c := etcdtest.Start(t, 1)
	h := newHouse(t, c, 2)
	must(t, tell(h.at(0), told("web")))
	must(t, tell(h.at(1), told("db")))
	h.hosts[1].Store = storeOf(t, etcdtest.Start(t, 1), "")
	v := view(t, h.at(1))
	if len(v.Peers) != 1 || v.Peers[0].Problem == "" || v.Mine.Guest("u-db").Epoch != 1 {
		t.Errorf("%+v", v)
	}
}

func TestWhatKeepsFromTheClusterIsSaid(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.pem")
	must(t, os.WriteFile(empty, nil, 0o600))
	for want, c := range map[string]etcd.Config{
		"no certificate in PEM":  {Endpoints: []string{"https://127.0.0.1:1"}, CAFile: empty},
		"none.pem":               {Endpoints: []string{"https://127.0.0.1:1"}, CAFile: filepath.Join(dir, "none.pem")},
		"no such file":           {Endpoints: []string{"http://127.0.0.1:1"}, PasswordFile: filepath.Join(dir, "none")},
		"no member can be reach": {Endpoints: []string{"http://127.0.0.1:1"}, Timeout: 300 * time.Millisecond},
	} {
		s := etcd.New(c)
		if _, _, err := s.List(context.Background(), "hosts/"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
		f := &coord.Fleet{StateDir: t.TempDir(), Shared: []string{dir}, Name: "host", Store: s}
		if _, err := f.All()[0].View(context.Background()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q, before anybody has told something: %v", want, err)
		}
		_ = s.Close()
	}
}

// Between what a host reads and what it puts another one claims the same guest.
func TestAClaimIsDecidedAnewWhereAnotherHostCameFirst(t *testing.T) {
	c := etcdtest.Start(t, 1)
	h := newHouse(t, c, 2)
	calls := 0
	must(t, h.at(0).Tell(context.Background(), time.Now(), func(v coord.View) coord.Told {
		if calls++; calls == 1 {
			must(t, tell(h.at(1), told("web")))
		}
		return coord.Claims(told("web"), &v, nil)
	}))
	first, second := view(t, h.at(0)), view(t, h.at(1))
	if a, b := first.Mine.Guest("u-web").Epoch, second.Mine.Guest("u-web").Epoch; calls != 2 || a != 0 || b != 1 {
		t.Errorf("%d calls, epochs %d and %d", calls, a, b)
	}
}

// A host is forgotten wherever it has told something.
func TestAHostOfAClusterIsForgotten(t *testing.T) {
	c := etcdtest.Start(t, 1)
	h := newHouse(t, c, 3)
	for i, name := range []string{"web", "db", "mail"} {
		must(t, tell(h.at(i), told(name)))
	}
	old := &coord.Fleet{StateDir: t.TempDir(), Shared: []string{h.dir}, Name: "old"}
	must(t, tell(old.All()[0], told("old")))
	for _, name := range []string{"host2", "old"} { // the second one has told on the storage alone
		must(t, h.at(0).Forget(context.Background(), name))
	}
	if err := h.at(0).Forget(context.Background(), "host2"); !errors.Is(err, coord.ErrNoSuchHost) {
		t.Error(err)
	}
	if v := view(t, h.at(0)); len(v.Peers) != 1 || v.Peers[0].Name != "host3" || v.Mine.Guest("u-db") == nil {
		t.Errorf("%+v", v)
	}
}

// useful tells whether a peer with that guest is known, or else that its host is a problem: without either, its
// layers are nobody's.
func useful(v coord.View, guest string) bool {
	for i := range v.Peers {
		if v.Peers[i].Problem != "" || v.Peers[i].Told.Guest(guest) != nil {
			return true
		}
	}
	return false
}

// A host that has told on the storage, and has only forgotten another one by the cluster so far.
func TestAHostThatForgetsFirstKeepsWhatItUses(t *testing.T) {
	c := etcdtest.Start(t, 1)
	h := newHouse(t, c, 3)
	must(t, tell(h.at(0), told("web")))
	must(t, tell(h.at(2), told("mail")))
	before := &coord.Fleet{StateDir: h.hosts[1].StateDir, Shared: h.hosts[1].Shared, Name: h.hosts[1].Name}
	must(t, tell(before.All()[0], told("db")))
	must(t, h.at(1).Forget(context.Background(), "host3"))
	if v := view(t, h.at(0)); !useful(v, "u-db") {
		t.Errorf("nothing tells that host2 uses db: %+v", v.Peers)
	}
}

// A host has moved back to the storage, or the cluster came back from an old backup: what is told on the storage is
// newer, and counts.
func TestWhatIsNewerOnTheStorageCounts(t *testing.T) {
	c := etcdtest.Start(t, 1)
	h := newHouse(t, c, 2)
	must(t, tell(h.at(0), told("web")))
	must(t, tell(h.at(1), told("db")))
	back := &coord.Fleet{StateDir: h.hosts[1].StateDir, Shared: h.hosts[1].Shared, Name: h.hosts[1].Name}
	adopted := coord.Told{}
	must(t, back.All()[0].Tell(context.Background(), time.Now(), func(v coord.View) coord.Told {
		adopted = coord.Claims(told("db", "clone"), &v, map[string]uint64{"u-db": 7})
		return adopted
	}))
	v := view(t, h.at(0))
	if len(v.Peers) != 1 || v.Peers[0].Problem == "" || v.Peers[0].Told.Guest("u-clone") == nil {
		t.Errorf("what host2 tells on the storage is not seen: %+v", v.Peers)
	}
	if v = view(t, h.at(1)); v.Mine.Guest("u-db").Epoch != 7 {
		t.Errorf("the cluster's older word counts: %+v", v.Mine)
	}
	must(t, tell(h.at(1), told("db", "clone")))
	if v = view(t, h.at(0)); v.Peers[0].Problem != "" || v.Peers[0].Told.Guest("u-db").Epoch != 7 {
		t.Errorf("%+v", v.Peers)
	}
}
