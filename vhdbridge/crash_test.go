package vhdbridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// srDir is the simulated repository.
const srDir = "/sr"

// A simNode is a node of the simulated repository.
type simNode struct {
	name, parent string
	hidden       bool
}

// simNodes have a run of three, a branch that stays, a leaf and garbage on one parent,
// and a raw base.
var simNodes = []simNode{
	{"base.vhd", "", true}, {"m1.vhd", "base.vhd", true}, {"m2.vhd", "m1.vhd", true}, {"m3.vhd", "m2.vhd", true},
	{"snap.vhd", "m3.vhd", false}, {"inner.vhd", "m3.vhd", true}, {"leaf.vhd", "inner.vhd", false},
	{"b2.vhd", "", true}, {"leaf2.vhd", "b2.vhd", false}, {"garbage.vhd", "b2.vhd", true},
	{"b3.raw", "", true}, {"c1.vhd", "b3.raw", true}, {"c2.vhd", "c1.vhd", false},
}

const (
	simDisk  = 96 << 10 // bytes
	simBlock = 16 << 10
)

// newSim makes the repository; what it returns besides is what each VDI reads.
func newSim(t testing.TB, seed uint64) (*vfstest.Mem, map[string][]byte) {
	t.Helper()
	m := vfstest.New()
	chance := rand.New(rand.NewPCG(seed, 1))
	b := bridge(m)
	for _, n := range simNodes {
		must(t, simCreate(b, n))
		must(t, simWrite(b, n, chance))
	}
	for _, n := range simNodes { // XenServer hides a node when something builds on it
		if n.hidden && strings.HasSuffix(n.name, ".vhd") {
			must(t, b.hide(&Node{Path: srDir + "/" + n.name, Format: formatVHD}, true))
		}
	}
	must(t, m.SyncDir(srDir))
	views, err := visible(b)
	must(t, err)
	return m, views
}

func simCreate(b *Bridge, n simNode) error {
	f, err := b.Store.FS.Create(srDir+"/"+n.name, 0o600)
	if err != nil {
		return err
	}
	o := vhd.CreateOptions{Size: simDisk, BlockSize: simBlock, Backing: n.parent, BackingFormat: formatVHD}
	switch {
	case strings.HasSuffix(n.name, ".raw"):
		return errors.Join(f.Truncate(simDisk), f.Sync(), f.Close())
	case strings.HasSuffix(n.parent, ".raw"):
		o.BackingFormat = formatRaw
	case n.parent != "":
		below, err := b.Store.Node(srDir+"/"+n.parent, formatVHD)
		if err != nil {
			return err
		}
		o.ParentID = below.Image.ID
	}
	return errors.Join(vhd.Create(f, o), f.Close())
}

// simWrite fills some sectors of the node with data, some with zeros.
func simWrite(b *Bridge, n simNode, chance *rand.Rand) error {
	f, err := b.Store.FS.Open(srDir+"/"+n.name, true)
	if err != nil {
		return err
	}
	var to chain.Target
	if strings.HasSuffix(n.name, ".raw") {
		to, err = chain.OpenRaw(f)
	} else {
		var s chain.Source
		if s, err = vhd.Open(f); err == nil {
			to = s.(chain.Target)
		}
	}
	if err == nil {
		err = to.Prepare()
	}
	for range 6 {
		if err == nil {
			err = simPiece(to, chance)
		}
	}
	if err == nil {
		err = to.Flush()
	}
	return errors.Join(err, to.Close())
}

func simPiece(to chain.Target, chance *rand.Rand) error {
	at := chance.Int64N(simDisk/512-8) * 512
	n := (1 + chance.Int64N(8)) * 512
	pieces, err := to.Place([]chain.Piece{{Offset: at, Length: n}})
	if err != nil {
		return err
	}
	for _, p := range pieces {
		data := bytes.Repeat([]byte{byte(chance.IntN(4))}, int(p.Length)) // zeros, too
		if _, err := to.Host().WriteAt(data, p.Host); err != nil {
			return err
		}
	}
	return to.Flush()
}

// visible reads every visible VDI.
func visible(b *Bridge) (map[string][]byte, error) {
	r, err := Scan(b.Store.FS, srDir, b.Readers)
	if err != nil {
		return nil, err
	}
	views := map[string][]byte{}
	for _, n := range r.Nodes {
		if n.Err != nil {
			return nil, fmt.Errorf("%s: %w", n.Name, n.Err)
		}
		if n.Hidden || n.name.old {
			continue
		}
		var out bytes.Buffer
		if err := contentOf(b, n, &out); err != nil {
			return nil, fmt.Errorf("%s: %w", n.Name, err)
		}
		views[n.VDI] = out.Bytes()
	}
	return views, nil
}

// all does everything that can be done.
func all(m vfs.FS) error {
	b := bridge(m)
	r, err := Scan(m, srDir, readers())
	if err != nil {
		return err
	}
	if _, err := b.Recover(r); err != nil {
		return err
	}
	if r, err = Scan(m, srDir, readers()); err != nil {
		return err
	}
	p, err := r.Plan(m, Options{Leaf: true, Garbage: true})
	if err != nil {
		return err
	}
	_, failed, err := b.Run(context.Background(), r, p)
	for _, s := range p.Spoiled {
		err = errors.Join(err, errors.New(s.Node+": "+s.Reason))
	}
	for i := range failed {
		err = errors.Join(err, failed[i].Cause)
	}
	return err
}

// finished wants nothing to be left to do, and every VDI to read as before.
func finished(m *vfstest.Mem, want map[string][]byte) error {
	b := bridge(m)
	have, err := visible(b)
	if err != nil {
		return err
	}
	if !slices.Equal(slices.Sorted(maps.Keys(have)), slices.Sorted(maps.Keys(want))) {
		return fmt.Errorf("VDIs %q, want %q", slices.Sorted(maps.Keys(have)), slices.Sorted(maps.Keys(want)))
	}
	for vdi := range want {
		if !bytes.Equal(have[vdi], want[vdi]) {
			return fmt.Errorf("%s reads otherwise than before", vdi)
		}
	}
	r, err := Scan(m, srDir, readers())
	if err != nil {
		return err
	}
	p, err := r.Plan(m, Options{Leaf: true, Garbage: true})
	if err != nil || len(p.Steps)+len(p.Spoiled)+len(r.Journals) > 0 {
		return fmt.Errorf("left to do: %+v %+v %+v, %w", p.Steps, p.Spoiled, r.Journals, err)
	}
	names, err := m.ReadDir(srDir)
	if err != nil || len(names) != 5 { // base, snap, leaf, leaf2 and c2, which is raw
		return fmt.Errorf("files %q: %w", names, err)
	}
	return nil
}

// Power is lost at every change, with any of what was not synced surviving; once more
// while what was interrupted is finished.
func TestPowerLossLosesNoVDI(t *testing.T) {
	t.Parallel()
	states, want := 0, wantStates(t)
	for seed := uint64(1); seed == 1 || states < want; seed++ {
		if seed > 1 {
			t.Logf("%d states of %d repositories", states, seed-1)
		}
		origin, views := newSim(t, seed)
		for n := 1; ; n++ {
			m := origin.Crash(1) // a copy in which all survives
			var after []*vfstest.Mem
			m.Before(m.Changes()+n, func() {
				for fate := range fates(want) {
					after = append(after, m.Crash(fate))
				}
			})
			must(t, all(m))
			if after == nil {
				must(t, finished(m, views))
				break
			}
			for fate, crashed := range after {
				states++
				var second *vfstest.Mem
				crashed.Before(crashed.Changes()+1+(n+fate)%40, func() { second = crashed.Crash(uint64(fate + 2)) })
				if err := goesOn(crashed, views); err != nil {
					t.Fatalf("seed %d, change %d, fate %d: %v\n%s", seed, n, fate, err, strings.Join(m.Log(), "\n"))
				}
				if second == nil {
					continue
				}
				states++
				if err := goesOn(second, views); err != nil {
					t.Fatalf("seed %d, change %d, fate %d, and once more: %v", seed, n, fate, err)
				}
			}
		}
	}
	t.Logf("%d states", states)
	if states < 300 {
		t.Error("too few: is a hook broken?")
	}
}

func goesOn(m *vfstest.Mem, want map[string][]byte) error {
	if err := all(m); err != nil {
		return err
	}
	return finished(m, want)
}

// The n-th operation fails: that is told, or made no difference, and the next run
// finishes.
func TestErrorsLoseNoVDI(t *testing.T) {
	t.Parallel()
	origin, want := newSim(t, 3)
	step := 3
	if wantStates(t) > 0 {
		step = 1
	}
	for i, fault := range []error{syscall.EIO, syscall.ENOSPC} {
		reached := 0
		for n := 1 + i; ; n += step {
			m := origin.Crash(1)
			before := m.Ops()
			m.FailAt(n, fault, false)
			err := all(m)
			if m.Ops()-before < n {
				break
			}
			reached++
			m = m.Crash(1)
			if err == nil {
				if err := goesOn(m, want); err != nil {
					t.Fatalf("operation %d, %v, was not told: %v", n, fault, err)
				}
				continue
			}
			for range 2 { // a first run may only tell what the error has left
				if err = all(m); err == nil {
					break
				}
			}
			if err == nil {
				err = finished(m, want)
			}
			if err != nil {
				t.Fatalf("operation %d, %v: %v", n, fault, err)
			}
		}
		t.Logf("%v: %d operations", fault, reached)
	}
}

// fates is how many ways there are in which what was not synced survives.
func fates(states int) uint64 {
	if states > 0 {
		return 8
	}
	return 2
}

// wantStates is how many states after a crash there are to be, at least; 0: those of one
// repository.
func wantStates(t *testing.T) int {
	t.Helper()
	text := os.Getenv("VIRT_ROTATE_CRASH_STATES")
	if text == "" {
		return 0
	}
	n, err := strconv.Atoi(text)
	must(t, err)
	return n
}

// seeds is how many repositories other tests simulate.
func seeds() uint64 {
	if os.Getenv("VIRT_ROTATE_CRASH_STATES") != "" {
		return 10
	}
	return 1
}
