package chaintest

import (
	"fmt"
	"syscall"
	"testing"
)

func TestEveryFailureIsToldAndNothingIsLost(t *testing.T) {
	t.Parallel()
	all := kits()
	stride, failures := 1, 0
	if wantStates(t) <= fewStates {
		stride = 9
	}
	for seed := range uint64(max(2, wantStates(t)/5000)) {
		above, base := all[seed%uint64(len(all))], append([]Kit{Raw()}, all...)[seed*4%uint64(len(all)+1)]
		for _, op := range Operations(base.Format.Name) {
			for _, c := range []struct {
				err    error
				sticky bool
				stride int
			}{{syscall.EIO, false, (stride + 1) / 2}, {syscall.EIO, true, stride}, {syscall.ENOSPC, true, stride}} {
				n, err := Failures(t, base, above, op, seed, c.err, c.sticky, c.stride)
				failures += n
				if err != nil {
					t.Fatalf("%s of %s on %s, %v: %v", op.Name, above.Name, base.Name, c.err, err)
				}
			}
		}
	}
	t.Logf("%d failures", failures)
}

func TestAFullDiskStopsAnOperationAndRoomLetsItGoOn(t *testing.T) {
	all := kits()
	for i, base := range append([]Kit{Raw()}, all...) {
		for _, op := range Operations(base.Format.Name) {
			t.Run(fmt.Sprintf("%s, base of %s", op.Name, base.Name), func(t *testing.T) {
				if err := FullDisk(t, base, all[i%len(all)], op, uint64(i)); err != nil {
					t.Error(err)
				}
			})
		}
	}
}
