package coord_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/coord"
	"github.com/virt-rotate/virt-rotate/rotate/coord/coordtest"
)

// A start is held back by what another host works on, but not by what it works on of a guest that this host has taken over
// from it.
func TestAStartWaitsForWorkOnWhatItNeeds(t *testing.T) {
	web := coord.Layer{Ino: 7, Path: "web.qcow2"}
	view := func(mine uint64, w coord.Work) *coord.View {
		return &coord.View{Mine: coord.Told{Guests: []coord.Guest{{UUID: "u1", Epoch: mine}}},
			Peers: []coord.Peer{{Name: "host1", Inodes: true, Told: coord.Told{Guests: []coord.Guest{{UUID: "u1", Epoch: 3}}, Merging: []coord.Work{w}}}}}
	}
	work := coord.Work{UUID: "u1", Name: "web", Layers: []coord.Layer{web}}
	for name, c := range map[string]struct {
		start coord.Start
		view  *coord.View
		held  bool
	}{
		"by inode":                  {coord.Start{UUID: "u2", Layers: []coord.Layer{{Ino: 7, Path: "/alt/web.qcow2"}}}, view(0, work), true},
		"by path":                   {coord.Start{UUID: "u2", Layers: []coord.Layer{{Path: "web.qcow2"}}}, view(0, work), true},
		"by its last name":          {coord.Start{UUID: "u2", Layers: []coord.Layer{{Path: "/vm/web.qcow2"}}}, view(0, coord.Work{UUID: "u1", Name: "web", Layers: []coord.Layer{{Path: "web.qcow2"}}}), true},
		"something else":            {coord.Start{UUID: "u2", Layers: []coord.Layer{{Ino: 8, Path: "other.qcow2"}}}, view(0, work), false},
		"in doubt":                  {coord.Start{UUID: "u2", Doubt: "a volume"}, view(0, work), true},
		"in doubt, nothing begun":   {coord.Start{UUID: "u2", Doubt: "a volume"}, view(0, coord.Work{}), false},
		"the guest itself":          {coord.Start{UUID: "u1", Layers: []coord.Layer{web}}, view(2, work), true},
		"the guest, taken over":     {coord.Start{UUID: "u1", Layers: []coord.Layer{web}}, view(4, work), false},
		"a clone of one taken over": {coord.Start{UUID: "u2", Layers: []coord.Layer{web}}, view(4, work), true},
		"a host that cannot be read": {coord.Start{UUID: "u2", Layers: []coord.Layer{{Path: "other.qcow2"}}},
			&coord.View{Peers: []coord.Peer{{Name: "host1", Problem: "damaged"}}}, true},
	} {
		if err := coord.Admit(&c.start, c.view); (err != nil) != c.held {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A start is told as long as the guest runs; what the host has told of its guests gets no younger by it.
func TestAStartIsToldUntilTheGuestHasEnded(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	store := &coordtest.Memory{}
	var s [2]coord.Storage
	for i := range s {
		f := &coord.Fleet{StateDir: t.TempDir(), Shared: []string{dir}, Name: []string{"host1", "host2"}[i], Store: store}
		s[i] = f.On(dir)[0]
	}
	then := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	must(s[0].Tell(ctx, then, func(coord.View) coord.Told { return coord.Told{Asks: true} }))
	start := coord.Start{UUID: "u", Name: "g", When: then.Add(time.Hour), Layers: []coord.Layer{{Path: "a.qcow2"}}}
	must(coord.Begin(ctx, s[0], start))
	must(coord.Begin(ctx, s[0], start))
	v, err := s[1].View(ctx)
	if must(err); len(v.Peers) != 1 || len(v.Peers[0].Told.Starts) != 1 || !v.Peers[0].When.Equal(then) || !v.Peers[0].Told.Asks {
		t.Fatalf("%+v", v.Peers)
	}
	must(coord.End(ctx, s[0], "another", then))
	ended := then.Add(2 * time.Hour)
	must(coord.End(ctx, s[0], "u", ended))
	if v, err = s[1].View(ctx); err != nil || len(v.Peers[0].Told.Starts) != 1 {
		t.Fatalf("%+v %v", v.Peers, err)
	}
	for look, left := range map[time.Duration]int{-time.Minute: 1, time.Minute: 0} {
		if n := len(coord.Unseen(v.Peers[0].Told.Starts, ended.Add(look))); n != left {
			t.Errorf("a look %v after its end leaves %d", look, n)
		}
	}
	must(coord.Withdraw(ctx, s[0], "u"))
	if v, err = s[1].View(ctx); err != nil || len(v.Peers[0].Told.Starts) != 0 || !v.Peers[0].When.Equal(then) {
		t.Fatalf("%+v %v", v.Peers, err)
	}
	must(s[1].Tell(ctx, then, func(coord.View) coord.Told {
		return coord.Told{Merging: []coord.Work{{UUID: "x", Name: "web", Layers: []coord.Layer{{Path: "a.qcow2"}}}}}
	}))
	var work *coord.WorkError
	if err := coord.Begin(ctx, s[0], start); !errors.As(err, &work) || work.Host != "host2" {
		t.Errorf("%v", err)
	}
}

// Hosts ask each other only if each of them does, and by a store.
func TestAllHostsHaveToAsk(t *testing.T) {
	asks := func(by string, registered, me bool, others ...bool) bool {
		v := coord.View{By: by, Registered: registered, Mine: coord.Told{Asks: me}}
		for _, o := range others {
			v.Peers = append(v.Peers, coord.Peer{Told: coord.Told{Asks: o}})
		}
		return v.Asking()
	}
	if !asks("etcd", true, true, true, true) || !asks("etcd", true, true) || asks("", true, true, true) || asks("etcd", false, true) ||
		asks("etcd", true, false, true) || asks("etcd", true, true, true, false) {
		t.Error("hosts that do not ask are relied on")
	}
}

// A host tells on a storage also once none of its guests lies there, by the store; where that is not mounted any more, it knows.
func TestAHostRemembersWhereItHasTold(t *testing.T) {
	top, state := t.TempDir(), t.TempDir()
	dir := filepath.Join(top, "nfs")
	must(os.Mkdir(dir, 0o700))
	fleet := func(shared string) *coord.Fleet {
		return &coord.Fleet{StateDir: state, Name: "host1", Store: &coordtest.Memory{}, Shared: []string{shared}}
	}
	must(fleet(dir).All()[0].Tell(context.Background(), time.Now(), func(coord.View) coord.Told { return coord.Told{} }))
	knows := func(f *coord.Fleet) bool {
		return slices.ContainsFunc(f.All(), func(s coord.Storage) bool { return s.Dir() == dir })
	}
	f := fleet(top)
	if !knows(f) || len(f.Missing()) != 0 {
		t.Errorf("%v is missing", f.Missing())
	}
	f = fleet(top)
	if f.Store = nil; knows(f) {
		t.Error("without a store it looks elsewhere")
	}
	must(os.RemoveAll(dir))
	if f = fleet(top); knows(f) || !slices.Equal(f.Missing(), []string{dir}) {
		t.Errorf("%v is missing", f.Missing())
	}
}
