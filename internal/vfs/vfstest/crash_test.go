package vfstest

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// seeds is enough for each outcome that matters to occur.
const seeds = 200

func TestSyncedDataSurvivesAnyCrash(t *testing.T) {
	m := New()
	f := durable(t, m, "/a", fill('a', 10000))
	must(t, f.Punch(4096, 512))
	must(t, f.Truncate(9000))
	must(t, second(f.Copy(20000, f, 0, 3000)))
	must(t, f.Sync())
	want := contentOf(t, f)
	for seed := range uint64(seeds) {
		wantContent(t, m.Crash(seed), "/a", want)
	}
}

func TestSeed0And1(t *testing.T) {
	m := New()
	f := durable(t, m, "/a", fill('a', 1000))
	write(t, f, 500, fill('b', 10000))
	create(t, m, "/b", []byte("new"))
	none, all := m.Crash(0), m.Crash(1)
	wantNames(t, none, "/", "a")
	wantContent(t, none, "/a", fill('a', 1000))
	wantNames(t, all, "/", "a", "b")
	wantContent(t, all, "/a", contentOf(t, f))
	wantContent(t, all, "/b", []byte("new"))
}

// outcomes lists what is found after crashes, each once.
func outcomes(m *Mem, look func(*Mem) string) []string {
	all := map[string]bool{}
	for seed := range uint64(seeds) {
		all[look(m.Crash(seed))] = true
	}
	return slices.Sorted(maps.Keys(all))
}

func wantOutcomes(t *testing.T, m *Mem, look func(*Mem) string, want ...string) {
	t.Helper()
	if got := outcomes(m, look); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// looking shows a file's sectors, or that it is not there.
func looking(path string) func(*Mem) string {
	return func(m *Mem) string {
		b, err := m.ReadFile(path)
		if err != nil {
			return "none"
		}
		return brief(b)
	}
}

func TestSectorsTear(t *testing.T) {
	m := New()
	f := durable(t, m, "/a", fill('o', 1024))
	write(t, f, 0, fill('n', 1024))
	wantOutcomes(t, m, looking("/a"), "nn (0+1024)", "no (0+1024)", "on (0+1024)", "oo (0+1024)")
}

func TestSectorsHaveAnyOfTheirVersions(t *testing.T) {
	m := New()
	f := durable(t, m, "/a", fill('0', 512))
	for _, c := range "123" {
		write(t, f, 0, fill(byte(c), 512))
	}
	wantOutcomes(t, m, looking("/a"), "0 (0+512)", "1 (0+512)", "2 (0+512)", "3 (0+512)")
}

func TestBytesOfASectorStayTogether(t *testing.T) {
	m := New()
	f := durable(t, m, "/a", fill('o', 512))
	write(t, f, 100, fill('n', 100))
	old, latest := fill('o', 512), contentOf(t, f)
	for seed := range uint64(seeds) {
		if got := read(t, m.Crash(seed), "/a"); !bytes.Equal(got, old) && !bytes.Equal(got, latest) {
			t.Fatalf("seed %d: %q", seed, got)
		}
	}
}

func TestPunchIsUnsyncedSectorBySector(t *testing.T) {
	m := New()
	f := durable(t, m, "/a", fill('o', 4096))
	must(t, f.Punch(0, 4096))
	got := outcomes(m, looking("/a"))
	if len(got) < 10 || !slices.Contains(got, "oooooooo (0+4096)") || !slices.Contains(got, "........ (0+4096)") {
		t.Errorf("%q", got)
	}
}

func TestTruncationHappensOrNot(t *testing.T) {
	m := New()
	f := durable(t, m, "/a", fill('o', 10000))
	must(t, f.Truncate(600))
	for seed := range uint64(seeds) {
		got := read(t, m.Crash(seed), "/a")
		if !bytes.Equal(got, fill('o', 10000)) && !bytes.Equal(got, fill('o', 600)) {
			t.Fatalf("seed %d: %s", seed, brief(got))
		}
	}
	wantOutcomes(t, m, func(m *Mem) string { return fmt.Sprint(len(read(t, m, "/a"))) }, "10000", "600")
}

// A file that was cut and has grown again shows nothing old beyond the cut.
func TestWhatWasCutDoesNotComeBack(t *testing.T) {
	m := New()
	f := durable(t, m, "/a", fill('o', 8192))
	write(t, f, 4096, fill('p', 4096))
	must(t, f.Punch(4096, 4096))
	must(t, f.Truncate(512))
	must(t, f.Truncate(9000))
	sizes := map[int]bool{}
	for seed := range uint64(seeds) {
		got := read(t, m.Crash(seed), "/a")
		sizes[len(got)] = true
		if len(got) == 9000 && !bytes.Equal(got[512:], make([]byte, 9000-512)) {
			t.Fatalf("seed %d: %s", seed, brief(got))
		}
	}
	if len(sizes) != 3 {
		t.Errorf("lengths %v", sizes)
	}
}

// The length is one that the file has had, or reaches to the last sector that
// survives.
func TestGrowthReachesToWhatSurvives(t *testing.T) {
	m := New()
	f := durable(t, m, "/a", fill('o', 512))
	write(t, f, 512, fill('n', 2048-100))
	lengths := map[int]bool{}
	for seed := range uint64(seeds) {
		got := read(t, m.Crash(seed), "/a")
		lengths[len(got)] = true
		for i, c := range got {
			if want := "on"[min(i/512, 1)]; c != want && c != 0 {
				t.Fatalf("seed %d: %s", seed, brief(got))
			}
		}
	}
	if got := slices.Sorted(maps.Keys(lengths)); !slices.Equal(got, []int{512, 1024, 1536, 2048, 2460}) {
		t.Errorf("lengths %v", got)
	}
}

// history changes a file at random and notes what each sector has held.
func history(t *testing.T, rng *rand.Rand, f vfs.File) (sectorsHeld [40]map[string]bool) {
	const size = len(sectorsHeld) * sectorSize
	note := func() {
		b := make([]byte, size)
		copy(b, contentOf(t, f))
		for s := range sectorsHeld {
			sectorsHeld[s][string(b[s*sectorSize:(s+1)*sectorSize])] = true
		}
	}
	for s := range sectorsHeld {
		sectorsHeld[s] = map[string]bool{}
	}
	note()
	for range 12 {
		off := rng.IntN(size - 5000)
		switch rng.IntN(4) {
		case 0, 1:
			write(t, f, int64(off), fill(byte(1+rng.IntN(255)), rng.IntN(5000)))
		case 2:
			must(t, f.Punch(int64(off), rng.Int64N(5000)))
		case 3:
			must(t, f.Truncate(int64(off)))
		}
		note()
	}
	return sectorsHeld
}

// Whatever was done, each sector is found with one of its contents, cut where
// the file ends; beyond that there is nothing, now and when the file grows.
func TestOnlyWhatWasThereIsFound(t *testing.T) {
	for seed := range uint64(150) {
		m := New()
		f := durable(t, m, "/a", fill('o', 6000))
		held := history(t, rand.New(rand.NewPCG(seed, 5)), f)
		for crash := range uint64(12) {
			g := open(t, m.Crash(crash), "/a")
			end := len(contentOf(t, g))
			must(t, g.Truncate(int64(len(held)*sectorSize)))
			b := contentOf(t, g)
			if !bytes.Equal(b[end:], make([]byte, len(b)-end)) {
				t.Fatalf("history %d, seed %d: %d bytes, then %s", seed, crash, end, brief(b))
			}
			for s := range end / sectorSize {
				if !held[s][string(b[s*sectorSize:(s+1)*sectorSize])] {
					t.Fatalf("history %d, seed %d: sector %d has never been so: %s", seed, crash, s, brief(b))
				}
			}
		}
	}
}

// share is how much of 100 new files is found, in percent, and how many files
// are found whole and not at all.
func share(t *testing.T, seed uint64) (percent, whole, none int) {
	m := New()
	for i := range 100 {
		f := durable(t, m, fmt.Sprintf("/%d", i), make([]byte, 20*sectorSize))
		write(t, f, 0, fill('n', 20*sectorSize))
	}
	m = m.Crash(seed)
	for i := range 100 {
		n := bytes.Count(read(t, m, fmt.Sprintf("/%d", i)), []byte("n")) / sectorSize
		percent += n
		if n == 20 {
			whole++
		}
		if n == 0 {
			none++
		}
	}
	return percent / 20, whole, none
}

func TestSeedsCoverFewHalfAndMost(t *testing.T) {
	for seed, bounds := range map[uint64][2]int{
		2: {15, 45}, 3: {35, 65}, 4: {55, 85}, 5: {15, 45}, 6: {35, 65}, 7: {55, 85},
	} {
		percent, whole, none := share(t, seed)
		if percent < bounds[0] || percent > bounds[1] || whole < 5 || none < 5 || whole+none > 75 {
			t.Errorf("seed %d: %d %%, %d whole, %d none", seed, percent, whole, none)
		}
	}
}

func listing(t *testing.T, dir string) func(*Mem) string {
	return func(m *Mem) string {
		names, err := m.ReadDir(dir)
		must(t, err)
		return fmt.Sprint(names)
	}
}

func TestNamesSurviveInOrder(t *testing.T) {
	m := New()
	create(t, m, "/old", nil)
	must(t, m.SyncDir("/"))
	create(t, m, "/a", nil)
	must(t, m.Rename("/a", "/b"))
	info, err := m.Stat("/old")
	must(t, err)
	m.NoSync(func(string, int) bool { return true })
	must(t, m.RemoveExact("/old", info.ID))
	create(t, m, "/c", nil)
	wantOutcomes(t, m, listing(t, "/"), "[a old]", "[b c]", "[b old]", "[b]", "[old]")
}

func TestSyncDirIsForOneDirectory(t *testing.T) {
	m := New()
	create(t, m, "/x/a", nil)
	create(t, m, "/y/b", nil)
	must(t, m.SyncDir("/x"))
	wantNames(t, m.Crash(0), "/x", "a")
	wantNames(t, m.Crash(0), "/y")
	wantOutcomes(t, m, listing(t, "/y"), "[]", "[b]")
}

func TestSyncDirKeepsTheOrder(t *testing.T) {
	m := New()
	create(t, m, "/x/a", nil)
	must(t, m.Rename("/x/a", "/x/b"))
	create(t, m, "/y/a", nil)
	must(t, m.Rename("/y/a", "/y/b"))
	must(t, m.SyncDir("/x"))
	wantNames(t, m.Crash(0), "/x", "b")
	wantOutcomes(t, m, listing(t, "/y"), "[]", "[a]", "[b]")
}

// A rename from one directory to another loses nothing and doubles nothing.
func TestRenameAcrossDirectories(t *testing.T) {
	both := func(t *testing.T) func(*Mem) string {
		return func(m *Mem) string { return listing(t, "/x")(m) + listing(t, "/y")(m) }
	}
	m := New()
	create(t, m, "/x/a", nil)
	must(t, m.SyncDir("/x"))
	create(t, m, "/x/b", nil)
	must(t, m.Rename("/x/a", "/y/a"))
	create(t, m, "/y/c", nil)
	create(t, m, "/x/d", nil)
	for _, got := range outcomes(m, both(t)) {
		switch got {
		case "[a][]", "[a b][]", "[b][a]", "[b][a c]", "[b d][a]", "[b d][a c]":
		default:
			t.Errorf("found %s", got)
		}
	}
	must(t, m.SyncDir("/y"))
	wantOutcomes(t, m, both(t), "[b d][a c]", "[b][a c]")
}

func TestNameAndContentAreDurableEachOnItsOwn(t *testing.T) {
	m := New()
	f := create(t, m, "/a", fill('a', 1000))
	must(t, f.Sync())
	wantErr(t, second(m.Crash(0).Stat("/a")), fs.ErrNotExist)
	m = New()
	create(t, m, "/a", fill('a', 1000))
	must(t, m.SyncDir("/"))
	wantContent(t, m.Crash(0), "/a", nil)
}

func TestCrashedFileSystemsAreIndependent(t *testing.T) {
	m := New()
	f := durable(t, m, "/a", fill('a', 5000))
	before, err := f.Stat()
	must(t, err)
	one, two := m.Crash(1), m.Crash(1)
	write(t, f, 0, fill('b', 10000))
	g := open(t, one, "/a")
	write(t, g, 0, fill('c', 3000))
	must(t, g.Sync())
	wantContent(t, two, "/a", fill('a', 5000))
	wantContent(t, one, "/a", slices.Concat(fill('c', 3000), fill('a', 2000)))
	wantContent(t, m, "/a", fill('b', 10000))
	if after, err := two.Stat("/a"); err != nil || after.ID != before.ID {
		t.Errorf("%+v, %v; before %+v", after, err, before)
	}
	if info, err := create(t, two, "/b", nil).Stat(); err != nil || info.ID == before.ID {
		t.Errorf("%+v, %v", info, err)
	}
}

// After a crash nothing is pending: a second one changes nothing.
func TestWhatIsFoundIsDurable(t *testing.T) {
	m := New()
	f := durable(t, m, "/a", fill('o', 20000))
	write(t, f, 5000, fill('n', 20000))
	must(t, f.Truncate(18000))
	create(t, m, "/b", fill('b', 700))
	must(t, m.Rename("/b", "/c"))
	for seed := range uint64(seeds) {
		found := m.Crash(seed)
		for again := range uint64(4) {
			wantContent(t, found.Crash(again), "/a", read(t, found, "/a"))
			if a, b := listing(t, "/")(found), listing(t, "/")(found.Crash(again)); a != b {
				t.Fatalf("seed %d: %s, then %s", seed, a, b)
			}
		}
	}
}

func TestSameSeedSameCrash(t *testing.T) {
	var before []string
	for range 3 {
		m := New()
		for i := range 20 {
			f := durable(t, m, fmt.Sprintf("/%d", i), fill('o', 5000))
			write(t, f, 1000, fill('n', 5000))
			create(t, m, fmt.Sprintf("/new%d", i), nil)
		}
		var found []string
		for seed := range uint64(10) {
			crashed := m.Crash(seed)
			found = append(found, listing(t, "/")(crashed))
			for i := range 20 {
				found = append(found, looking(fmt.Sprintf("/%d", i))(crashed))
			}
		}
		found = append(found, m.Log()...)
		if before != nil && !slices.Equal(found, before) {
			t.Fatal("differs")
		}
		before = found
	}
}

// crashPoints runs change on a new file system, once for each of its changes,
// and returns all that a crash before it can leave.
func crashPoints(t *testing.T, prepare, change func(*Mem) error) []*Mem {
	t.Helper()
	var all []*Mem
	for n := 1; ; n++ {
		m, hit := New(), false
		must(t, prepare(m))
		m.Before(n, func() {
			hit = true
			for seed := range uint64(8) {
				all = append(all, m.Crash(seed))
			}
		})
		must(t, change(m))
		if !hit {
			return append(all, m.Crash(0))
		}
	}
}

func putState(content string) func(*Mem) error {
	return func(m *Mem) error { return m.WriteFile("/state", fill(content[0], 3000), 0o600) }
}

func TestWriteFileIsOldOrNewAfterAnyCrash(t *testing.T) {
	found := map[string]int{}
	for _, m := range crashPoints(t, putState("o"), putState("n")) {
		found[looking("/state")(m)]++
	}
	if len(found) != 2 || found["oooooo (0+3000)"] == 0 || found["nnnnnn (0+3000)"] == 0 {
		t.Errorf("%v", found)
	}
}

// The simulation notices a missing fsync: of the file, and of the directory.
func TestNoSyncLosesData(t *testing.T) {
	for _, c := range []struct {
		dir  bool
		want string
	}{{false, "torn"}, {true, "old in the end"}} {
		leaving := func(path string, _ int) bool { return (path == "/") == c.dir }
		change := func(m *Mem) error {
			m.NoSync(leaving)
			return putState("n")(m)
		}
		all := crashPoints(t, putState("o"), change)
		torn := slices.ContainsFunc(all, func(m *Mem) bool {
			s := looking("/state")(m)
			return s != "oooooo (0+3000)" && s != "nnnnnn (0+3000)"
		})
		old := looking("/state")(all[len(all)-1]) == "oooooo (0+3000)"
		if torn != !c.dir || old != c.dir {
			t.Errorf("want %s: torn %v, old in the end %v", c.want, torn, old)
		}
	}
}

func TestRemovalIsDurable(t *testing.T) {
	m := New()
	info, err := durable(t, m, "/a", nil).Stat()
	must(t, err)
	must(t, m.RemoveExact("/a", info.ID))
	for seed := range uint64(8) {
		wantErr(t, second(m.Crash(seed).Stat("/a")), fs.ErrNotExist)
	}
}

// Data that is read back from a file that has lost its name is still there.
func TestOpenFilesOutliveTheirNames(t *testing.T) {
	m := New()
	f := durable(t, m, "/a", []byte("data"))
	info, err := f.Stat()
	must(t, err)
	must(t, m.RemoveExact("/a", info.ID))
	write(t, f, 0, []byte("D"))
	must(t, f.Sync())
	if got := contentOf(t, f); string(got) != "Data" {
		t.Errorf("%q", got)
	}
	wantNames(t, m.Crash(1), "/", nil...)
}

var _ vfs.File = (*file)(nil)
