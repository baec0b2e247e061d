package nfs_test

import (
	"bytes"
	"context"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/nfs"
	"github.com/virt-rotate/virt-rotate/integration/nfs/inside"
)

// pauses: a host that merges stands still for longer than the lease, and another has the image meanwhile. What
// the first writes after that must not reach it.
func (s *share) pauses() {
	one, two := s.hosts[0], s.hosts[1]
	path := s.chain(1, 0)[0]
	late := s.lock(two, path)
	all := s.storages(1)
	for i, name := range []string{"web", "db"} {
		tell(s.T, all[i], told(name))
	}
	slot, err := all[1].Take(context.Background(), 1)
	must(s, err)
	must(s, slot.Err())
	must(s, s.write(two, late, 'a'))
	must(s, two.Pause())
	stopped := time.Now()
	var early int
	must(s, one.Call("Images.Open", path, &early))
	for {
		err := one.Call("Images.Lock", early, &inside.None{})
		if err == nil {
			break
		}
		if time.Since(stopped) > standing {
			s.Fatalf("%.0f s after the other host stands still: %v", time.Since(stopped).Seconds(), err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	s.Logf("another host has the image %.1f s after the first stands still", time.Since(stopped).Seconds())
	must(s, s.write(one, early, 'b'))
	must(s, two.Resume())
	lost := slot.Err()
	s.Logf("what its slot says then: %v", lost)
	if lost == nil {
		s.Error("a host does not know that its slot is lost")
	}
	slot.Release()
	err = s.write(two, late, 'c')
	s.Logf("what the first writes then: %v", err)
	if err == nil {
		s.Error("a host writes to an image whose lock it has lost")
	}
	var data []byte
	must(s, one.Call("Images.ReadAt", inside.Part{Number: early, Off: pausedAt, Size: 4096}, &data))
	must(s, one.Call("Images.Close", early, &inside.None{}))
	_ = two.Call("Images.Close", late, &inside.None{}) // its lock is lost
	fresh := s.lock(one, path)
	var again []byte
	must(s, one.Call("Images.ReadAt", inside.Part{Number: fresh, Off: pausedAt, Size: 4096}, &again))
	must(s, one.Call("Images.Close", fresh, &inside.None{}))
	if want := bytes.Repeat([]byte{'b'}, 4096); !bytes.Equal(data, want) || !bytes.Equal(again, want) {
		s.Errorf("the image has %q, then %q", data[:8], again[:8])
	}
}

// pausedAt is where both write, in bytes, far from what is in the image.
const pausedAt = 8 << 20

func (s *share) lock(h *nfs.Machine, path string) (number int) {
	s.Helper()
	must(s, h.Call("Images.Open", path, &number))
	must(s, h.Call("Images.Lock", number, &inside.None{}))
	return number
}

// write writes and syncs.
func (s *share) write(h *nfs.Machine, number int, b byte) error {
	if err := h.Call("Images.WriteAt", inside.Part{Number: number, Off: pausedAt, Data: bytes.Repeat([]byte{b}, 4096)}, &inside.None{}); err != nil {
		return err
	}
	return h.Call("Images.Sync", number, &inside.None{})
}
