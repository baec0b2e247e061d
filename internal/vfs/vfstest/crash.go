package vfstest

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"slices"
)

// fate decides what survives.
type fate struct {
	rng  *rand.Rand
	odds float64 // that something unsynced survives
}

// Crash returns the file system as it is found after power was lost now: all
// that is durable, and of the rest what the seed says. Seed 0 lets nothing
// survive, 1 everything, 2, 5, 8, … few sectors, 3, 6, 9, … half, 4, 7, 10, …
// most; with these, each file may be spared, or lose all, on its own. A sector
// that was written more than once has its newest or any older content. m itself
// is not changed; hooks, faults, NoSync and locks do not come along.
func (m *Mem) Crash(seed uint64) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := New()
	next.Reflink, next.limit = m.Reflink, m.limit
	next.lastIno, next.temps = m.lastIno, m.temps
	f := newFate(seed)
	next.names.disk = survivors(m.names.afterCrash(f), f)
	next.names.live = maps.Clone(next.names.disk)
	return next
}

// survivors replaces all inodes, in the order of their numbers.
func survivors(names map[string]*inode, f *fate) map[string]*inode {
	byNumber := func(a, b *inode) int { return cmp.Compare(a.ino, b.ino) }
	after := map[*inode]*inode{}
	for _, i := range slices.SortedFunc(maps.Values(names), byNumber) {
		if after[i] == nil {
			after[i] = i.afterCrash(f)
		}
	}
	for name, i := range names {
		names[name] = after[i]
	}
	return names
}

func newFate(seed uint64) *fate {
	f := &fate{rng: chance(seed, 0)}
	switch seed {
	case 0:
		f.odds = 0
	case 1:
		f.odds = 1
	default:
		f.odds = []float64{0.5, 0.9, 0.1}[seed%3]
	}
	return f
}

// chance is the same for the same numbers.
func chance(a, b uint64) *rand.Rand {
	return rand.New(rand.NewPCG(a, b)) //nolint:gosec // no secret: it has to be repeatable
}

// ofFile is the fate of one file: a device writes files back at different times,
// so that one may be whole on the disk and the next not there at all.
func (f *fate) ofFile() *fate {
	if f.odds == 0 || f.odds == 1 {
		return f
	}
	own := *f
	switch f.rng.IntN(4) {
	case 0:
		own.odds = 0
	case 1:
		own.odds = 1
	}
	return &own
}

func (f *fate) survives() bool { return f.rng.Float64() < f.odds }

// prefix is how many of n changes, from the oldest on, survive.
func (f *fate) prefix(n int) int {
	if f.survives() {
		return n
	}
	return f.rng.IntN(n + 1)
}

// pick chooses one of n versions, every other time the newest.
func (f *fate) pick(n int) int {
	if f.rng.IntN(2) == 0 {
		return n - 1
	}
	return f.rng.IntN(n)
}
