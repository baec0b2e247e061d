package chaintest

import (
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
)

// sizes are larger and smaller ones, some of them within a cluster.
func sizes(room chain.Room) []Size {
	return []Size{{3, room}, {700, room}, {-3, chain.RoomNone}, {-30, chain.RoomNone}, {-1000, chain.RoomNone}}
}

func resizePairs() (pairs []vhdPair) {
	all := kits()
	for i, k := range all {
		pairs = append(pairs, vhdPair{all[(i+1)%len(all)], k})
	}
	v := vhds()
	return append(pairs, vhdPair{Raw(), v[0]}, vhdPair{v[1], v[2]}, vhdPair{v[3], v[1]}, vhdPair{Raw(), all[0]})
}

// roomOf is a kind of room that images of the kit can have.
func roomOf(k Kit, seed uint64) chain.Room {
	if k.Format.Name == "vhd" {
		return chain.RoomNone
	}
	return chain.Room(seed % 4)
}

func TestPowerLossInAResizeLosesNothing(t *testing.T) {
	t.Parallel()
	pairs, want, states := resizePairs(), wantStates(t)/3, 0
	for seed := uint64(1); states < want || seed <= uint64(len(pairs)); seed++ {
		p := pairs[seed%uint64(len(pairs))]
		for _, z := range sizes(roomOf(p.above, seed/2)) {
			n, err := ResizeLoss(t, p.base, p.above, z, seed, 4, nil)
			states += n
			if err != nil {
				t.Fatalf("%+v of %s on %s: %v", z, p.above.Name, p.base.Name, err)
			}
		}
	}
	t.Logf("%d states", states)
}

// Without any sync, what a resize rests on is lost.
func TestAResizeWithoutSyncsIsSeen(t *testing.T) {
	t.Parallel()
	for _, p := range []vhdPair{{kits()[1], kits()[0]}, {Raw(), vhds()[1]}} {
		seen := false
		for seed := uint64(1); seed < 30 && !seen; seed++ {
			for _, z := range sizes(chain.RoomNone) {
				_, err := ResizeLoss(t, p.base, p.above, z, seed, 8, func(m *vfstest.Mem) { m.NoSync(func(string, int) bool { return true }) })
				seen = seen || err != nil
			}
		}
		if !seen {
			t.Errorf("%s on %s: nothing was lost", p.above.Name, p.base.Name)
		}
	}
}
