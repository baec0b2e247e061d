package qcow2

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
)

// places is where in an image damage can be done, by kind: offsets of 64-bit
// words, or stretches of refcounts.
type places struct {
	words  map[refKind][]int64 // entries that lead to something
	idle   []int64             // L1 and L2 entries that do not
	blocks []int64             // refcount blocks
	size   int64
	h      Header
}

// explore finds the places in a sound image.
func explore(t testing.TB, image []byte) places {
	t.Helper()
	p := places{words: map[refKind][]int64{}, size: int64(len(image))}
	var err error
	if p.h, err = read(image); err != nil {
		t.Fatal(err)
	}
	l := p.h.layout()
	_, err = usage(newCheckMem(image), p.h, p.size, func(r *ref) error {
		if r.kind == refRefcountBlock {
			p.blocks = append(p.blocks, r.offset)
		}
		if r.kind == refL2 {
			p.idle = append(p.idle, r.offset+l.l2EntryLen()*(l.l2Entries()/3), r.offset+l.l2EntryLen()*(l.l2Entries()-1))
		}
		if r.at != 0 && r.reason == "" {
			p.words[r.kind] = append(p.words[r.kind], r.at)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if p.h.L1Size > 1 {
		p.idle = append(p.idle, p.h.L1TableOffset+int64(p.h.L1Size-1)*8)
	}
	p.idle = append(p.idle, p.h.RefcountTableOffset+8*l.cluster()/16)
	return p
}

// fields of the header that can be changed without another meaning of the rest.
var headerFields = []int64{offRefcountTable, offL1Table, offSnapshotsTable, offSnapshots, offIncompatible, offAutoclear, offCompatible}

// damage changes a copy of image in one to three ways, and tells how.
func damage(rng *rand.Rand, image []byte, p places) ([]byte, string) {
	b := slices.Clone(image)
	how := ""
	for range 1 + rng.IntN(3) {
		b, how = damageOnce(rng, b, p, how)
	}
	return b, how
}

func damageOnce(rng *rand.Rand, b []byte, p places, how string) ([]byte, string) {
	kinds := slices.DeleteFunc([]refKind{
		refL2, refL2, refData, refData, refData, refCompressed, refCompressed, refSnapshotL1,
		refRefcountBlock, refRefcountBlock, refBitmapDirectory, refBitmapTable, refBitmapData,
	}, func(k refKind) bool { return len(p.words[k]) == 0 })
	switch n := rng.IntN(20); {
	case n < 11:
		kind := kinds[rng.IntN(len(kinds))]
		at := p.words[kind][rng.IntN(len(p.words[kind]))]
		return damageWord(rng, b, at, p, how+kind.String()+" ")
	case n < 12:
		return damageWord(rng, b, p.idle[rng.IntN(len(p.idle))], p, how+"idle ")
	case n < 16:
		return damageRefcount(rng, b, p, how)
	case n < 17:
		at := headerFields[rng.IntN(len(headerFields))]
		bit := rng.IntN(64)
		if at == offIncompatible && bit == 2 {
			return b, how // there is no data file
		}
		return flip(b, at, bit, how+"header ")
	case n < 18:
		size := rng.Int64N(p.size)
		if rng.IntN(2) == 0 {
			size = max(p.size-1-rng.Int64N(2*p.h.ClusterSize()), 0)
		}
		if size < int64(len(b)) {
			b = b[:size]
		}
		return b, fmt.Sprintf("%scut at %d; ", how, size)
	case n < 19:
		more := rng.Int64N(3 * p.h.ClusterSize())
		return append(b, make([]byte, more)...), fmt.Sprintf("%sappend %d; ", how, more)
	}
	at := p.words[refData]
	if len(at) < 2 {
		return b, how
	}
	from, to := at[rng.IntN(len(at))], at[rng.IntN(len(at))]
	if max(from, to)+8 > int64(len(b)) {
		return b, how
	}
	copy(b[to:to+8], b[from:from+8])
	return b, fmt.Sprintf("%scopy %d to %d; ", how, from, to)
}

// damageWord flips a bit, or puts another offset there.
func damageWord(rng *rand.Rand, b []byte, at int64, p places, how string) ([]byte, string) {
	if at+8 > int64(len(b)) {
		return b, how
	}
	if rng.IntN(3) > 0 {
		bit := rng.IntN(64)
		if rng.IntN(2) == 0 {
			bit = int(p.h.ClusterBits) - 1 + rng.IntN(8)
		}
		return flip(b, at, bit, how)
	}
	v := binary.BigEndian.Uint64(b[at:])
	switch rng.IntN(4) {
	case 0:
		v ^= entryCopied
	case 1:
		v = v&^entryOffset | uint64(rng.Int64N(p.size/p.h.ClusterSize()+2)<<p.h.ClusterBits)
	case 2:
		v = rng.Uint64()
	case 3:
		v = 0
	}
	binary.BigEndian.PutUint64(b[at:], v)
	return b, fmt.Sprintf("%sat %d: %x; ", how, at, v)
}

func flip(b []byte, at int64, bit int, how string) ([]byte, string) {
	if at+8 > int64(len(b)) {
		return b, how
	}
	v := binary.BigEndian.Uint64(b[at:]) ^ 1<<bit
	binary.BigEndian.PutUint64(b[at:], v)
	return b, fmt.Sprintf("%sat %d: bit %d; ", how, at, bit)
}

// damageRefcount sets the refcount of a cluster in use, or of the next ones.
func damageRefcount(rng *rand.Rand, b []byte, p places, how string) ([]byte, string) {
	if len(p.blocks) == 0 {
		return b, how
	}
	l := p.h.layout()
	at := p.blocks[rng.IntN(len(p.blocks))]
	if at+l.cluster() > int64(len(b)) {
		return b, how
	}
	i := rng.Int64N(min(p.size/l.cluster()+3, l.refEntries()))
	v := rng.Uint64N(4)
	if rng.IntN(4) == 0 {
		v = rng.Uint64()
	}
	v &= maxRef(l.refOrder)
	putRef(b[at:at+l.cluster()], l.refOrder, i, v)
	return b, fmt.Sprintf("%srefcount %d = %d; ", how, i, v)
}

// damagedImages is how many damaged images of each species are checked; fewer
// are repaired.
func damagedImages(t *testing.T) uint64 {
	t.Helper()
	text := os.Getenv("VIRT_ROTATE_DAMAGE")
	if text == "" {
		return 8
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestAgainstQEMU compares Check with qemu-img check on sound images of all
// species, and on damaged ones. VIRT_ROTATE_DAMAGE says how many of these.
func TestAgainstQEMU(t *testing.T) {
	for i, s := range allSpecies() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			m := raise(t, t.TempDir(), s)
			t.Run("sound", func(t *testing.T) { wantSameCounts(t, m) })
			if s.cluster < 2<<20 { // others are large files
				n := damagedImages(t)
				t.Run("damaged", func(t *testing.T) { eachDamaged(t, m, i, n, wantSameDamage) })
				t.Run("repaired", func(t *testing.T) { eachDamaged(t, m, i, (n+2)/3, wantGoodRepair) })
				t.Run("leaks", func(t *testing.T) { eachDamaged(t, m, i, (n+1)/2, wantLeaksRepaired) })
			}
		})
	}
}

// eachDamaged calls try for n damaged images.
func eachDamaged(t *testing.T, m specimen, stream int, n uint64, try func(t *testing.T, m specimen, image []byte)) {
	image := m.load(t)
	p := explore(t, image)
	for seed := range n {
		b, how := damage(rand.New(rand.NewPCG(seed, uint64(stream))), image, p)
		d := m.copyTo(t, "damaged", b)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			try(t, d, b)
			if t.Failed() {
				t.Log(how)
			}
		})
	}
}

// asQEMU takes away from a result what QEMU does not count. ok is false where
// there is nothing to compare.
func (r CheckResult) asQEMU() (same CheckResult, ok bool) {
	r.Corruptions -= r.ours
	for _, p := range r.Problems {
		if p.Reason == reasonHeader || p.What == refSnapshotTable.String() && p.Reason == reasonCut {
			return r, false
		}
	}
	return r.counts(), true
}

func wantSameDamage(t *testing.T, m specimen, image []byte) {
	got, err := m.check(t, RepairNone)
	if err != nil {
		return
	}
	checkVerifyAgrees(t, newCheckMem(image), got)
	want, ok := m.qemuCheck(t)
	if !ok {
		if got.Corruptions+got.CheckErrors == 0 {
			t.Errorf("qemu-img gave up, but got %s", got.describe())
		}
		return
	}
	same, ok := got.asQEMU()
	if same.CheckErrors > 0 && same.Corruptions > want.Corruptions {
		same.Corruptions = want.Corruptions // QEMU passes over L2 tables without refcount
	}
	if ok && fmt.Sprint(same) != fmt.Sprint(want) {
		t.Errorf("got %s\nqemu %+v", got.describe(), want)
	}
}
