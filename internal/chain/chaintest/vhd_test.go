package chaintest

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// virtual is the kit of one variant of VHD.
func virtual(name string, o vhd.CreateOptions) Kit {
	return Kit{
		Name: name, Base: o.Fixed, OneSize: o.Fixed,
		Format: chain.Format{
			Name:    "vhd",
			Probe:   vhd.Probe,
			Open:    func(f vfs.File, _ chain.DataOpener) (chain.Source, error) { return vhd.Open(f) },
			Inspect: inspectVHD,
		},
		Create: func(f vfs.File, size int64, on Parent) error {
			o := o
			o.Size, o.Backing, o.BackingFormat, o.ParentID = size, on.Name, on.Format, on.ID
			return vhd.Create(f, o)
		},
		Check: func(f vfs.File) error {
			r, err := vhd.Check(f, vhd.RepairNone)
			for _, p := range r.Problems {
				// XenServer's tools believe a batmap, and would damage the parent.
				if err == nil && (!p.Mendable || strings.HasPrefix(p.Reason, "it says that block")) {
					err = fmt.Errorf("%d corruptions: %v", r.Corruptions, r.Problems)
				}
			}
			return err
		},
	}
}

func vhds() []Kit {
	return []Kit{
		virtual("VHD", vhd.CreateOptions{}),
		virtual("VHD of 4 KiB blocks", vhd.CreateOptions{BlockSize: 4096}),
		virtual("VHD of 512 B blocks", vhd.CreateOptions{BlockSize: 512}),
		virtual("VHD of 16 KiB blocks", vhd.CreateOptions{BlockSize: 16384}),
	}
}

// A vhdPair is a base and what is above it.
type vhdPair struct{ base, above Kit }

// vhdPairs are all pairs with a VHD that the operations can go through: a VHD
// builds on raw disks and on VHDs, a qcow2 image on anything.
func vhdPairs() (pairs []vhdPair) {
	all := vhds()
	bases := append(vhds(), Raw(), virtual("fixed VHD", vhd.CreateOptions{Fixed: true}))
	for i, base := range bases {
		pairs = append(pairs, vhdPair{base, all[i%len(all)]}, vhdPair{base, all[(i+1)%len(all)]})
	}
	return append(pairs, vhdPair{all[0], kits()[0]}, vhdPair{all[1], kits()[3]})
}

// somePairs is every other pair, or for long runs all.
func somePairs(t *testing.T) (some []vhdPair) {
	for i, p := range vhdPairs() {
		if i%2 == 0 || wantStates(t) > fewStates {
			some = append(some, p)
		}
	}
	return some
}

func TestVHDPowerLossAtEveryWriteLosesNothing(t *testing.T) {
	t.Parallel()
	pairs, want := somePairs(t), wantStates(t)
	states, rounds, fates := 0, 0, uint64(2)
	if want > fewStates {
		fates = 6
	}
	for seed := uint64(1); states < want || rounds < len(pairs); seed++ {
		p := pairs[seed%uint64(len(pairs))]
		rounds++
		for _, op := range Operations(p.base.Format.Name) {
			n, err := PowerLoss(t, p.base, p.above, op, seed, fates, nil)
			states += n
			if err != nil {
				t.Fatalf("%s of %s on %s: %v", op.Name, p.above.Name, p.base.Name, err)
			}
		}
	}
	t.Logf("%d states", states)
}

func TestVHDEveryFailureIsToldAndNothingIsLost(t *testing.T) {
	t.Parallel()
	failures, stride := 0, 37
	if wantStates(t) > fewStates {
		stride = 3
	}
	for seed, p := range somePairs(t) {
		for _, op := range Operations(p.base.Format.Name) {
			for k, err := range []error{syscall.EIO, syscall.EIO, syscall.ENOSPC} {
				n, bad := Failures(t, p.base, p.above, op, uint64(seed), err, k > 0, stride)
				failures += n
				if bad != nil {
					t.Fatalf("%s of %s on %s, %v: %v", op.Name, p.above.Name, p.base.Name, err, bad)
				}
			}
		}
	}
	t.Logf("%d failures", failures)
}

func TestVHDAFullDiskStopsAnOperationAndRoomLetsItGoOn(t *testing.T) {
	for i, p := range vhdPairs() {
		for _, op := range Operations(p.base.Format.Name) {
			t.Run(fmt.Sprintf("%s, %s on %s", op.Name, p.above.Name, p.base.Name), func(t *testing.T) {
				if err := FullDisk(t, p.base, p.above, op, uint64(i)); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func inspectVHD(f vfs.File) (chain.Image, error) {
	size, err := f.Size()
	if err != nil {
		return chain.Image{}, err
	}
	i, err := vhd.ReadInfo(f, size)
	return i.Image(), err
}
