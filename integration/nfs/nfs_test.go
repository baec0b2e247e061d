package nfs_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/nfs"
	"github.com/virt-rotate/virt-rotate/integration/nfs/inside"
	"github.com/virt-rotate/virt-rotate/rotate/coord"
	"github.com/virt-rotate/virt-rotate/rotate/coord/coordtest"
)

// A way is how hosts mount, and what follows from it.
type way struct {
	nfs.Way
	kind  string         // of the file system
	local string         // why locks stay here
	asked bool           // who asks for a lock is told
	locks coord.Crossing // what hosts at work find out
	brief bool           // all else is as it is for the way before
}

func ways() []way {
	return []way{
		{nfs.Way{Name: "v4.2", Options: "vers=4.2"}, "nfs4", "", true, coord.LocksCross, false},
		{nfs.Way{Name: "v3", Options: "vers=3"}, "nfs", "", false, coord.LocksCross, false},
		{nfs.Way{Name: "v3 nolock", Options: "vers=3,nolock"}, "nfs", "nolock", false, coord.LocksStay, false},
		{nfs.Way{Name: "v3 local_lock", Options: "vers=3,local_lock=posix"}, "nfs", "local_lock=posix", false, coord.LocksStay, true},
	}
}

// A share is a directory of the filer that both hosts have mounted in one way.
type share struct {
	*lab
	way
	dir   string // at the filer
	hosts []*nfs.Machine
}

// shared mounts a directory that nobody has used yet.
func (l *lab) shared(t *testing.T, w way) *share {
	t.Helper()
	dir := strings.NewReplacer("/", "-", " ", "-", ",", "-").Replace(t.Name())
	for _, h := range l.Hosts {
		must(t, l.Mount(h, w.Way, dir))
		t.Cleanup(func() { must(t, l.Unmount(h)) })
	}
	return &share{&lab{t, l.Lab}, w, dir, l.Hosts}
}

// storages are what both hosts see, with a state of their own.
func (s *share) storages(slots int) []coord.Storage {
	s.Helper()
	var all []coord.Storage
	for _, h := range s.hosts {
		all = append(all, s.storage(h, slots))
	}
	return all
}

func (s *share) storage(h *nfs.Machine, slots int) coord.Storage {
	s.Helper()
	found, err := h.Storages(s.host(h, slots))
	must(s, err)
	if len(found) != 1 {
		s.Fatalf("%d storages on %s", len(found), h.Name)
	}
	return found[0]
}

// host has a state directory of its own for each storage, on its disk.
func (s *share) host(h *nfs.Machine, slots int) inside.Host {
	return inside.Host{Name: h.Name, State: "/var/lib/state/" + s.dir, Dir: nfs.Share, Slots: slots}
}

func told(name string) coord.Told {
	return coord.Told{Guests: []coord.Guest{{UUID: "u-" + name, Name: name, Layers: []coord.Layer{{Path: name + ".qcow2", Active: true}}}}}
}

func tell(t *testing.T, s coord.Storage, what coord.Told) {
	t.Helper()
	must(t, s.Tell(context.Background(), time.Now(), func(coord.View) coord.Told { return what }))
}

func view(t *testing.T, s coord.Storage) coord.View {
	t.Helper()
	v, err := s.View(context.Background())
	must(t, err)
	return v
}

// A check is one of what hosts do that share a directory.
type check struct {
	name string
	run  func(*share)
}

func checks() []check {
	return []check{
		{"the file system tells who has it", (*share).kinds},
		{"a writer on the other host is seen", (*share).writers},
		{"an image that the other has just made is seen", (*share).cloned},
		{"hosts at work find out", (*share).presence},
		{"what is told is never read stale", (*share).fresh},
		{"a host that is silent is told by name", (*share).silent},
		{"a merge beside a guest of another", (*share).commits},
		{"a file that the other deletes", (*share).deleted},
		{"a time of change under a lock", (*share).changed},
		{"what a look at images asks the filer", (*share).traffic},
	}
}

// A filer and two hosts: what virt-rotate does on each kind of mount, and when a host loses its power.
func TestHostsThatShareNFS(t *testing.T) {
	l := newLab(t)
	for _, w := range ways() {
		t.Run(w.Name, func(t *testing.T) {
			all := checks()
			if w.brief {
				all = all[:2]
			}
			for _, c := range all {
				t.Run(c.name, func(t *testing.T) { c.run(l.shared(t, w)) })
			}
			if w.locks == coord.LocksCross {
				t.Run("suite", func(t *testing.T) {
					coordtest.Suite(t, func(t *testing.T, _ int) []coord.Storage { return l.shared(t, w).storages(0) })
				})
				if w.Version4() {
					t.Run("a host stands still", func(t *testing.T) { l.shared(t, w).pauses() })
				}
				t.Run("a host loses its power", func(t *testing.T) { l.shared(t, w).dies() })
			}
		})
	}
}

// kinds: the mount alone tells that other hosts have it, and whether locks reach them.
func (s *share) kinds() {
	for _, h := range s.hosts {
		path := nfs.Share + "/" + h.Name
		must(s, h.Call("Machine.Put", inside.Content{Path: path}, &inside.None{}))
		var k inside.Kind
		must(s, h.Call("Images.Kind", path, &k))
		if k.Shared != s.kind || (s.local == "") != (k.Local == "") || !strings.Contains(k.Local, s.local) {
			s.Errorf("%s: %+v", h.Name, k)
		}
		if st := s.storage(h, 0); st.Dir() != nfs.Share {
			s.Errorf("%s: the storage's directory is %q", h.Name, st.Dir())
		}
	}
}

// presence: each of two hosts at work sees the other's lock, or its counter move without one.
func (s *share) presence() {
	all := s.storages(0)
	for i, st := range all {
		tell(s.T, st, told(fmt.Sprint("g", i)))
	}
	for _, st := range all {
		leave, err := st.Enter(context.Background())
		must(s, err)
		defer leave()
	}
	for i, st := range all {
		start := time.Now()
		found, err := st.Locks(context.Background())
		must(s, err)
		s.Logf("host%d finds %q after %.1f s", i+1, found, time.Since(start).Seconds())
		if found != s.locks {
			s.Errorf("host%d finds %q, not %q", i+1, found, s.locks)
		}
		tell(s.T, st, told(fmt.Sprint("g", i)))
	}
	for i, st := range all {
		if v := view(s.T, st); v.Peers[0].Locks != s.locks {
			s.Errorf("host%d is told %q", i+1, v.Peers[0].Locks)
		}
	}
}

// rewrites is how often what is told changes while the other host reads.
const rewrites = 60

// fresh: what the other host has told just now is read, each time; and what is told at the same time is
// read whole.
func (s *share) fresh() {
	all := s.storages(0)
	stale := 0
	for n := range rewrites {
		name := fmt.Sprintf("%d%s", n, strings.Repeat("x", n%7*300))
		tell(s.T, all[0], told(name))
		v := view(s.T, all[1])
		if len(v.Peers) != 1 || v.Peers[0].Told.Guest("u-"+name) == nil {
			stale++
		}
	}
	s.Logf("%d of %d reads were stale", stale, rewrites)
	if stale > 0 && s.locks == coord.LocksCross {
		s.Errorf("%d of %d reads were stale", stale, rewrites)
	}
	s.beside(all)
}

// beside reads while the other host tells as fast as it can.
func (s *share) beside(all []coord.Storage) {
	var what []coord.Told
	for n := range rewrites {
		what = append(what, told(strings.Repeat("y", 1+n%5*400)))
	}
	done := make(chan error, 1)
	go func() { done <- all[0].(*nfs.Storage).TellAll(what) }()
	looks, torn := 0, 0
	for {
		select {
		case err := <-done:
			must(s, err)
			s.Logf("%d of %d looks beside %d rewrites found nothing whole", torn, looks, rewrites)
			if torn > 0 && s.locks == coord.LocksCross {
				s.Errorf("%d looks found nothing whole", torn)
			}
			return
		default:
		}
		v, err := all[1].View(context.Background())
		must(s, err)
		looks++
		for _, p := range v.Peers {
			if p.Problem != "" {
				torn++
			} else if len(p.Told.Guests) != 1 {
				s.Errorf("half of it: %+v", p)
			}
		}
	}
}

// Name is the test's: ways have names, too.
func (s *share) Name() string { return s.T.Name() }
