// Package coordtest is what every way for hosts to tell each other has to pass: one suite, over
// as many hosts as the way has.
package coordtest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/coord"
)

// Now is when all of the suite happens.
var Now = time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)

// Suite runs against storages that hosts, which is called anew for each test, has made: the same
// one as each of n hosts sees it, or just one where no other host can have it.
func Suite(t *testing.T, hosts func(t *testing.T, n int) []coord.Storage) {
	for name, check := range map[string]func(*testing.T, []coord.Storage){
		"nobody has told anything":                     nothing,
		"what a host tells, it finds again":            own,
		"others read what a host tells":                others,
		"what is told replaces what was":               replaced,
		"claims are made one after the other":          claims,
		"a slot is had by so many":                     slots,
		"a host that is not there cannot be forgotten": nobody,
		"an end of the context ends the waiting":       canceled,
	} {
		t.Run(name, func(t *testing.T) { check(t, hosts(t, 3)) })
	}
}

func told(name string) coord.Told {
	return coord.Told{Guests: []coord.Guest{{UUID: "u-" + name, Name: name, Layers: []coord.Layer{{Ino: 7, Path: name + ".qcow2"}}}}}
}

func tell(t *testing.T, s coord.Storage, what coord.Told) {
	t.Helper()
	if err := s.Tell(context.Background(), Now, func(coord.View) coord.Told { return what }); err != nil {
		t.Fatal(err)
	}
}

func view(t *testing.T, s coord.Storage) coord.View {
	t.Helper()
	v, err := s.View(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func nothing(t *testing.T, hosts []coord.Storage) {
	for _, s := range hosts {
		if v := view(t, s); len(v.Peers) > 0 || len(v.Mine.Guests) > 0 {
			t.Errorf("%+v", v)
		}
	}
}

func own(t *testing.T, hosts []coord.Storage) {
	tell(t, hosts[0], told("web"))
	if v := view(t, hosts[0]); v.Mine.Guest("u-web") == nil || len(v.Peers) > 0 {
		t.Errorf("%+v", v)
	}
}

func others(t *testing.T, hosts []coord.Storage) {
	for i, s := range hosts {
		tell(t, s, told(string(rune('a'+i))))
	}
	for i, s := range hosts {
		v := view(t, s)
		if len(v.Peers) != len(hosts)-1 || v.Mine.Guest("u-"+string(rune('a'+i))) == nil {
			t.Fatalf("host %d of %d sees %+v", i, len(hosts), v)
		}
		for _, p := range v.Peers {
			if p.Problem != "" || len(p.Told.Guests) != 1 || !p.When.Equal(Now) || !p.Inodes {
				t.Errorf("%+v", p)
			}
		}
	}
}

func replaced(t *testing.T, hosts []coord.Storage) {
	last := hosts[len(hosts)-1]
	before := view(t, last).Generation
	for _, name := range []string{"web", "db", "db"} {
		tell(t, hosts[0], told(name))
		v := view(t, last)
		if v.Generation == before {
			t.Errorf("nothing tells that %s was told", name)
		}
		before = v.Generation
		all := v.Mine.Guests
		for _, p := range v.Peers {
			all = append(all, p.Told.Guests...)
		}
		if len(all) != 1 || all[0].Name != name {
			t.Errorf("after %s: %+v", name, all)
		}
	}
}

// Hosts that claim one guest at the same time end with one owner.
func claims(t *testing.T, hosts []coord.Storage) {
	done := make(chan error)
	for _, s := range hosts {
		go func() {
			done <- s.Tell(context.Background(), Now, func(v coord.View) coord.Told {
				what := told("web")
				what.Guests[0].Live = true
				return coord.Claims(what, &v, nil)
			})
		}()
	}
	for range hosts {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	owners := 0
	for _, s := range hosts {
		if v := view(t, s); v.Mine.Guest("u-web").Epoch > 0 {
			owners++
		}
	}
	if owners != 1 {
		t.Errorf("%d owners", owners)
	}
}

func slots(t *testing.T, hosts []coord.Storage) {
	ctx := context.Background()
	for _, s := range hosts {
		tell(t, s, told("web"))
	}
	first, err := hosts[0].Take(ctx, 2)
	if err != nil {
		t.Fatal(err)
	}
	second, err := hosts[len(hosts)-1].Take(ctx, 2)
	if err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if _, err := hosts[0].Take(soon, 2); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a third of two slots: %v", err)
	}
	first.Release()
	third, err := hosts[len(hosts)-1].Take(ctx, 2)
	if err != nil {
		t.Fatal(err)
	}
	second.Release()
	third.Release()
}

func nobody(t *testing.T, hosts []coord.Storage) {
	tell(t, hosts[0], told("web"))
	if err := hosts[0].Forget(context.Background(), "nobody"); !errors.Is(err, coord.ErrNoSuchHost) {
		t.Error(err)
	}
}

func canceled(t *testing.T, hosts []coord.Storage) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	held, err := hosts[0].Take(ctx, 1)
	if err == nil {
		defer held.Release()
		if _, err = hosts[0].Take(ctx, 1); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}
