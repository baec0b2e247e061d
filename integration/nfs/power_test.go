package nfs_test

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/nfs"
	"github.com/virt-rotate/virt-rotate/integration/nfs/inside"
	"github.com/virt-rotate/virt-rotate/rotate/coord"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// silent: a host that has told nothing for too long is told by its name, with what to do.
func (s *share) silent() {
	all := s.storages(0)
	tell(s.T, all[0], told("web"))
	long := time.Now().Add(-observe.SilentAfter - time.Hour)
	must(s, all[1].Tell(context.Background(), long, func(coord.View) coord.Told { return told("db") }))
	seen := s.look(nil)
	if len(seen.Problems) != 1 || !strings.Contains(seen.Problems[0], "host2 has not told since") || !strings.Contains(seen.Remedies[0], "virt-rotate fleet forget host2") {
		s.Errorf("%+v", seen)
	}
	tell(s.T, all[1], told("db"))
	if seen := s.look(nil); len(seen.Problems) != 1 || seen.Problems[0] != "" {
		s.Errorf("%+v", seen)
	}
}

// look is what a run of the first host looks at, once.
func (s *share) look(chain []string) inside.Seen {
	s.Helper()
	return s.looks(chain)()
}

// looks are those of one run.
func (s *share) looks(chain []string) func() inside.Seen {
	s.Helper()
	h, number := s.hosts[0], 0
	must(s, h.Call("Storages.Eye", inside.Look{Host: s.host(h, 0), Chain: chain}, &number))
	return func() (seen inside.Seen) {
		s.Helper()
		must(s, h.Call("Storages.Look", number, &seen))
		return seen
	}
}

// standing is far more than a lock stands after its holder has died, where the filer finds that out.
const standing = 4 * nfs.Lease * time.Second

// dies: a host has a slot, an image, and the table of hosts just when its power goes.
func (s *share) dies() {
	two := s.hosts[1]
	image := s.chain(1, 0)[0]
	all := s.storages(1)
	for i, st := range all {
		tell(s.T, st, told([]string{"web", "db"}[i]))
	}
	_, err := all[1].Take(context.Background(), 1)
	must(s, err)
	var qemu int
	must(s, two.Call("Images.QEMUWriter", image, &qemu))
	claim := make(chan struct{})
	go func() {
		_ = all[1].Tell(context.Background(), time.Now(), func(coord.View) coord.Told {
			close(claim)
			<-s.Context().Done() // it dies before it comes to that
			return coord.Told{}
		})
	}()
	<-claim
	must(s, two.Cut())
	died := time.Now()
	_, err = all[0].View(context.Background())
	s.Logf("a look %.0f s after the host died: %v", time.Since(died).Seconds(), err)
	s.slotAfter(all[0], image, died)
	if v := view(s.T, all[0]); len(v.Peers) != 1 || v.Peers[0].Told.Guest("u-db") == nil {
		s.Errorf("what the dead host had told: %+v", v.Peers)
	}
}

// slotAfter waits until the other host has what the dead one had; over NFSv3 it has to come back for that.
func (s *share) slotAfter(st coord.Storage, image string, died time.Time) {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), standing)
	defer cancel()
	h, err := st.Take(ctx, 1)
	if !s.Version4() {
		if !errors.Is(err, context.DeadlineExceeded) {
			s.Errorf("the slot of a host that is dead, over NFSv3: %v", err)
		}
		s.Logf("after %.0f s the slot is still the dead host's", time.Since(died).Seconds())
		if use := s.use(s.hosts[0], image); !use.Tested.Write {
			s.Errorf("the image: %+v", use)
		}
		s.back()
		back := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), standing)
		defer cancel()
		h, err = st.Take(ctx, 1)
		s.Logf("%.1f s after the host is back: %v", time.Since(back).Seconds(), err)
	}
	must(s, err)
	s.Logf("the slot is had %.1f s after the host died", time.Since(died).Seconds())
	h.Release()
	for s.use(s.hosts[0], image).Tested.Read && time.Since(died) < 10*standing {
		time.Sleep(200 * time.Millisecond)
	}
	s.Logf("the image is free %.1f s after the host died", time.Since(died).Seconds())
	if s.Version4() {
		s.back()
	}
}

func (s *share) use(h *nfs.Machine, image string) (u inside.Use) {
	s.Helper()
	must(s, h.Call("Images.Use", image, &u))
	return u
}

// back switches the dead host on again.
func (s *share) back() {
	s.Helper()
	two := s.hosts[1]
	must(s, two.Start())
	must(s, nfs.Services(two))
	must(s, s.Mount(two, s.Way, s.dir))
}
