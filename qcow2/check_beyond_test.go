package qcow2

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// What qemu-img does not find, or finds less of: each case says how many
// corruptions it counts, -1 if it gives up.
func TestBeyondQEMU(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name      string
		options   string
		steps     []string
		damage    func(b []byte, p places) []byte
		qemu, own int64 // corruptions
		errors    int64
	}{
		{"last cluster of data cut", "", []string{"write -P 1 @0 @4"},
			func(b []byte, _ places) []byte { return b[:len(b)-1024] }, 0, 1, 0},
		{"last cluster of data cut behind the end of the disk", "", []string{"write -P 1 @599 512"},
			func(b []byte, _ places) []byte { return b[:len(b)-512] }, 0, 0, 0},
		{"last subcluster cut", "extended_l2=on,cluster_size=16k", []string{"write -P 1 0 16k"},
			func(b []byte, _ places) []byte { return b[:len(b)-512] }, 0, 1, 0},
		{"compressed cluster cut", "", []string{"write -c -P 1 @0 @4"},
			func(b []byte, _ places) []byte { return append(b, 0)[:(len(b)-1)/512*512] }, 0, 4, 0},
		{"L2 table cut", "", []string{"write -z @0 @4"},
			func(b []byte, _ places) []byte { return b[:len(b)-1024] }, 0, 1, 0},
		{"L2 table cut before its entries", "", []string{"write -P 1 @512 @1", "discard @512 @1"},
			func(b []byte, p places) []byte { return b[:p.h.L1TableOffset+4096+512] }, 0, 1, 0},
		{"overlap with a refcount to match", "", []string{"write -P 1 @0 @4"},
			func(b []byte, p places) []byte {
				put64(b, int(p.words[refData][0]), uint64(p.h.L1TableOffset))
				putRef(b[p.blocks[0]:], 4, p.h.L1TableOffset>>12, 2)
				putRef(b[p.blocks[0]:], 4, 5, 0)
				return b
			}, 0, 1, 0},
		{"zero flag in version 2", "compat=0.10", []string{"write -P 1 @0 @1"},
			func(b []byte, p places) []byte { b[p.words[refData][0]+7] |= byte(entryZero); return b }, 0, 1, 0},
		{"zero flag with subclusters", "extended_l2=on,cluster_size=16k", []string{"write -P 1 0 16k"},
			func(b []byte, p places) []byte { b[p.words[refData][0]+7] |= byte(entryZero); return b }, 0, 1, 0},
		{"L1 entry with a flag alone", "", nil,
			func(b []byte, p places) []byte { b[p.h.L1TableOffset] = 0x80; return b }, 11, 1, 0},
		{"snapshot table cut", "", []string{"img snapshot -c one"},
			func(b []byte, _ places) []byte { return b[:len(b)-10] }, 0, 0, 1},
		{"bitmap directory without sense", "", []string{"img bitmap --add %s one"},
			func(b []byte, p places) []byte { b[p.h.BitmapDirectoryOffset+offBitmapType] = 9; return b }, -1, 0, 1},
		{"bitmap data of ones with an offset", "", withBitmaps,
			func(b []byte, p places) []byte { b[p.words[refBitmapData][0]+7] |= 1; return b }, -1, 1, 0},
		{"bitmap data with a reserved bit", "", withBitmaps,
			func(b []byte, p places) []byte { b[p.words[refBitmapData][0]+7] |= 4; return b }, -1, 1, 0},
		{"bitmap data unaligned", "", withBitmaps,
			func(b []byte, p places) []byte { b[p.words[refBitmapData][0]+6] |= 2; return b }, -1, 1, 0},
		{"bitmap directory longer than its entries", "", withBitmaps,
			func(b []byte, p places) []byte {
				b[bitmapsExtension(p.h)+offBitmapsDirSize+7] += 8
				return append(b, make([]byte, 8)...)
			}, -1, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			options, cluster := c.options, int64(4<<10)
			if options == "extended_l2=on,cluster_size=16k" {
				options, cluster = "extended_l2=on", 16<<10
			}
			m := raise(t, dir, species{name: "disk", cluster: cluster, size: 600, options: options, steps: c.steps})
			image := m.load(t)
			d := m.copyTo(t, "damaged", c.damage(slices.Clone(image), explore(t, image)))
			got, err := d.check(t, RepairNone)
			if err != nil {
				t.Fatal(err)
			}
			if got.Corruptions != c.own || got.CheckErrors != c.errors {
				t.Errorf("got %s", got.describe())
			}
			want, ok := d.qemuCheck(t)
			if ok != (c.qemu >= 0) || ok && want.Corruptions != c.qemu {
				t.Errorf("qemu-img has learned: %+v, %v", want, ok)
			}
		})
	}
}

func bitmapsExtension(h Header) int64 {
	i := slices.IndexFunc(h.Extensions, func(e Extension) bool { return e.Type == ExtensionBitmaps })
	return h.Extensions[i].Offset
}

func TestResultHasTheKeysOfQEMU(t *testing.T) {
	all := CheckResult{
		Corruptions: 1, Leaks: 2, CheckErrors: 3, CorruptionsFixed: 4, LeaksFixed: 5, ImageEndOffset: 6,
		TotalClusters: 7, AllocatedClusters: 8, FragmentedClusters: 9, CompressedClusters: 10,
		Problems: []Problem{{}}, ProblemCount: 11,
	}
	b, err := json.Marshal(all)
	if err != nil || string(b) != `{"corruptions":1,"leaks":2,"check-errors":3,"corruptions-fixed":4,`+
		`"leaks-fixed":5,"image-end-offset":6,"total-clusters":7,"allocated-clusters":8,`+
		`"fragmented-clusters":9,"compressed-clusters":10}` {
		t.Errorf("%s, %v", b, err)
	}
	if b, err := json.Marshal(CheckResult{}); err != nil || string(b) != `{"check-errors":0}` {
		t.Errorf("%s, %v", b, err)
	}
}

// counted counts what is read.
type counted struct {
	vfs.File
	read int64
}

func (c *counted) ReadAt(p []byte, off int64) (int, error) {
	c.read += int64(len(p))
	return c.File.ReadAt(p, off)
}

// manyTables is an image of 512-byte clusters with an L1 table of n entries, all
// of which are what entry returns.
func manyTables(t *testing.T, n int64, entry func(i int64) uint64) []byte {
	t.Helper()
	b := make([]byte, 4<<9+n*8+512)
	l2 := uint64(len(b)) &^ 511
	b = append(b, make([]byte, 1024)...)
	h := Header{
		Version: 3, ClusterBits: 9, Size: 512, L1Size: uint32(n), L1TableOffset: 4 << 9,
		RefcountTableOffset: 1 << 9, RefcountTableClusters: 1, RefcountOrder: 4, HeaderLength: 104,
	}
	var first [headerLen]byte
	h.encode(&first)
	copy(b, first[:])
	put64(b, 1<<9, 2<<9) // the refcount block
	for i := range n {
		put64(b, int(4<<9+8*i), entry(i)+l2)
	}
	put64(b, int(l2), 3<<9|entryCopied)
	return b
}

func TestTableOfManyReferencesIsReadOnce(t *testing.T) {
	const n = 1 << 20
	m := newCheckMem(manyTables(t, n, func(int64) uint64 { return 0 }))
	res, err := Check(m, RepairNone)
	if err != nil {
		t.Fatal(err)
	}
	if res.AllocatedClusters != n || m.read > 2*int64(len(m.b)) {
		t.Errorf("%d bytes read of %d: %s", m.read, len(m.b), res.describe())
	}
	if len(res.Problems) != maxProblems || res.ProblemCount <= maxProblems {
		t.Errorf("%d problems of %d", len(res.Problems), res.ProblemCount)
	}
}

func TestMisplacedTablesAreNotAllRead(t *testing.T) {
	const n = 1 << 17
	m := newCheckMem(manyTables(t, n, func(i int64) uint64 { return uint64(-512 * (i % (n / 64))) }))
	m.b = append(m.b, make([]byte, 8<<10)...)
	m.b[offClusterBits+3] = 12 // clusters of 4096
	put64(m.b, offL1Table, 4096)
	put64(m.b, offRefcountTable, 4096)
	res, err := Check(m, RepairNone)
	if err != nil {
		t.Fatal(err)
	}
	if res.Corruptions == 0 || m.read > 3*int64(len(m.b))+maxOddTables<<12 {
		t.Errorf("%d bytes read of %d: %s", m.read, len(m.b), res.describe())
	}
}

// snapshotTableOf makes a snapshot table of n entries that all name one L1
// table of so many entries.
func snapshotTableOf(n int, l1, entries int64) []byte {
	table := make([]byte, n*(minSnapshotLen+minSnapshotExtraV3))
	for i := range n {
		e := table[i*(minSnapshotLen+minSnapshotExtraV3):]
		binary.BigEndian.PutUint64(e, uint64(l1))
		binary.BigEndian.PutUint32(e[offSnapshotL1Size:], uint32(entries))
		binary.BigEndian.PutUint32(e[offSnapshotExtra:], minSnapshotExtraV3)
	}
	return table
}

func TestSnapshotTablesLargerThanTheFileAreNotRead(t *testing.T) {
	b := manyTables(t, 1<<17, func(int64) uint64 { return 0 })
	put32(b, offSnapshots, maxSnapshots)
	put64(b, offSnapshotsTable, uint64(len(b)))
	m := newCheckMem(append(b, snapshotTableOf(maxSnapshots, 4<<9, 1<<17)...))
	res, err := Check(m, RepairNone)
	if err != nil {
		t.Fatal(err)
	}
	if res.CheckErrors != 1 || m.read > 6*int64(len(m.b)) {
		t.Errorf("%d bytes read of %d: %s", m.read, len(m.b), res.describe())
	}
}

// A file can claim terabytes of tables that are holes.
func TestHolesAreNotRead(t *testing.T) {
	const n = 1 << 18 // L2 tables of 2 MiB
	h := Header{
		Version: 3, ClusterBits: 21, Size: 512, L1Size: n, L1TableOffset: 4 << 20,
		RefcountTableOffset: 2 << 20, RefcountTableClusters: 1, RefcountOrder: 4, HeaderLength: 104,
	}
	var first [headerLen]byte
	h.encode(&first)
	l1 := make([]byte, n*8)
	for i := range n {
		put64(l1, 8*i, uint64(i+3)<<21)
	}
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for off, b := range map[int64][]byte{0: first[:], 4 << 20: l1} {
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate((n + 4) << 21); err != nil {
		t.Fatal(err)
	}
	open, err := vfs.OS().Open(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	c := &counted{File: open}
	res, err := Check(c, RepairNone)
	if err != nil {
		t.Fatal(err)
	}
	if res.Corruptions != n+3 || c.read > 16<<20 {
		t.Errorf("%d bytes read: %s", c.read, res.describe())
	}
}

// huge is a file of which nothing must be read beyond the header.
type huge struct{ *checkMem }

func (h huge) Stat() (vfs.Info, error) { return vfs.Info{Size: (maxCheckClusters + 1) << 9}, nil }

func TestTooManyClusters(t *testing.T) {
	m := huge{newCheckMem(manyTables(t, 64, func(int64) uint64 { return 0 }))}
	res, err := Check(m, RepairAll)
	if err != nil || res.CheckErrors != 1 || m.changes > 0 {
		t.Errorf("%v: %s", err, res.describe())
	}
	var unsupported *UnsupportedError
	if _, err := verify(m, mustRead(t, m.b)); !errors.As(err, &unsupported) {
		t.Errorf("verify: %v", err)
	}
}
