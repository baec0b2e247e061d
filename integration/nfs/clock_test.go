package nfs_test

import (
	"context"
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/nfs"
	"github.com/virt-rotate/virt-rotate/rotate/coord"
)

const day = 24 * 60 * 60

// Clocks of hosts and of members of their cluster jump by days while a host merges. Leases are kept by clocks that do not: the
// slot stays the host's, and nothing that was told is lost.
func TestClocksThatJump(t *testing.T) {
	l := newLab(t, "member")
	endpoints, err := l.Cluster()
	must(t, err)
	w := ways()[0]
	s := l.shared(t, w)
	hosts := s.byCluster(endpoints)
	waitFor(t, hosts[0])
	for i, name := range []string{"web", "db"} {
		tell(t, hosts[i], told(name))
	}
	machines := append([]*nfs.Machine{l.Filer}, l.Hosts...)
	for holder := range hosts {
		other := hosts[1-holder]
		slot, err := hosts[holder].Take(context.Background(), 1)
		must(t, err)
		for _, m := range machines {
			for _, by := range []int64{3 * day, -6 * day, 3 * day} {
				must(t, m.Jump(by))
				soon, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				if _, err := other.Take(soon, 1); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("the clock of %s jumps by %d s: the slot of the other host is had: %v", m.Name, by, err)
				}
				cancel()
				if err := slot.Err(); err != nil {
					t.Errorf("the clock of %s jumps by %d s: %v", m.Name, by, err)
				}
			}
		}
		slot.Release()
		free, err := other.Take(context.Background(), 1)
		must(t, err)
		free.Release()
	}
	for i := range hosts {
		v := view(t, hosts[i])
		if len(v.Peers) != 1 || v.Peers[0].Problem != "" || v.Peers[0].Told.Guest([]string{"u-db", "u-web"}[i]) == nil {
			t.Errorf("host %d: %+v", i+1, v)
		}
	}
}

// byCluster are the storages that both hosts see, with a state of their own, of which they tell each other by etcd.
func (s *share) byCluster(endpoints []string) (all []coord.Storage) {
	s.Helper()
	for _, h := range s.hosts {
		host := s.host(h, 0)
		host.Endpoints, host.Prefix = endpoints, "/"+s.dir
		found, err := h.Storages(host)
		must(s, err)
		all = append(all, found[0])
	}
	return all
}

// waitFor waits until the members have found each other.
func waitFor(t *testing.T, s coord.Storage) {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(time.Second) {
		_, err := s.View(context.Background())
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// chosen are the programs that all machines have, and those that are asked for.
func chosen(all map[string]string, more []string) map[string]string {
	some := maps.Clone(all)
	for _, name := range optional {
		delete(some, name)
	}
	for _, name := range more {
		some[name] = all[name]
	}
	return some
}
