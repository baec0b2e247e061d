package snapcache

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/tidy"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { os.Exit(tidy.Run(m.Run)) }

// A bed is libvirt's directory with the snapshots a and b of web, and a place for the cache.
type bed struct {
	*testing.T
	dir, file string
}

func newBed(t *testing.T) *bed {
	b := &bed{t, filepath.Join(t.TempDir(), "snapshot"), filepath.Join(t.TempDir(), "cache")}
	must(t, os.MkdirAll(b.path(""), 0o755))
	for _, name := range []string{"a", "b"} {
		must(t, os.WriteFile(b.path(name), []byte(name), 0o600))
	}
	return b
}

func (b *bed) path(snapshot string) string {
	if snapshot == "" {
		return filepath.Join(b.dir, "web")
	}
	return filepath.Join(b.dir, "web", snapshot+".xml")
}

// open is what a process does an hour later: nothing is young.
func (b *bed) open() *Cache[string] { return b.openAs("life") }

func (b *bed) openAs(life string) *Cache[string] {
	b.Helper()
	dir, err := os.Open(b.dir)
	must(b.T, err)
	b.Cleanup(func() { must(b.T, dir.Close()) })
	c := Open[string](b.file, Source{dir, life})
	c.clock = func() time.Time { return time.Now().Add(time.Hour) }
	return c
}

var both = []string{"a", "b"}

// learn is a look that was told "told" of web.
func (b *bed) learn() {
	b.Helper()
	c := b.open()
	before := c.Look("web", both)
	if _, known := c.Known("web", "uuid", before); known {
		b.Fatal("known before anything was told")
	}
	c.Learn("web", "uuid", before, "told")
	c.Save(true)
	if !b.known() {
		b.Fatal("what was told is not known")
	}
}

// known tells whether a later process knows it without asking.
func (b *bed) known() bool {
	b.Helper()
	c := b.open()
	value, known := c.Known("web", "uuid", c.Look("web", both))
	if known && value != "told" {
		b.Fatalf("%q is known", value)
	}
	return known
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What libvirt's files show to have changed is asked for again.
func TestAChangeIsSeen(t *testing.T) {
	old := time.Now().Add(-time.Hour)
	for name, change := range map[string]func(b *bed){
		"replaced": func(b *bed) {
			must(b.T, os.WriteFile(b.path("a")+".new", []byte("A"), 0o600))
			must(b.T, os.Rename(b.path("a")+".new", b.path("a")))
		},
		"written to in place": func(b *bed) { must(b.T, os.WriteFile(b.path("a"), []byte("A"), 0o600)) },
		"written to, with the old time": func(b *bed) {
			info, err := os.Stat(b.path("a"))
			must(b.T, err)
			must(b.T, os.WriteFile(b.path("a"), []byte("A"), 0o600))
			must(b.T, os.Chtimes(b.path("a"), info.ModTime(), info.ModTime()))
		},
		"another time":  func(b *bed) { must(b.T, os.Chtimes(b.path("b"), old, old)) },
		"deleted":       func(b *bed) { must(b.T, os.Remove(b.path("b"))) },
		"one more":      func(b *bed) { must(b.T, os.WriteFile(b.path("c"), nil, 0o600)) },
		"no longer one": func(b *bed) { must(b.T, os.Remove(b.path("a"))); must(b.T, os.Symlink(b.path("b"), b.path("a"))) },
		"a write that failed": func(b *bed) {
			must(b.T, os.WriteFile(b.path("a")+".new", nil, 0o600))
			must(b.T, os.Remove(b.path("a")+".new"))
		},
		"domain renamed": func(b *bed) { must(b.T, os.Rename(b.path(""), b.dir+"/mail")) },
		"domain made again": func(b *bed) {
			must(b.T, os.Rename(b.path(""), b.dir+"/old"))
			must(b.T, os.MkdirAll(b.path(""), 0o755))
			for _, s := range both {
				must(b.T, os.Rename(b.dir+"/old/"+s+".xml", b.path(s)))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.learn()
			change(b)
			if b.known() {
				t.Error("it is not asked for again")
			}
		})
	}
}

// Each part of a file's identity counts, also if all others are the same.
func TestEachPartOfTheIdentityCounts(t *testing.T) {
	first := unix.Stat_t{Dev: 1, Ino: 2, Size: 3, Mtim: unix.Timespec{Sec: 4, Nsec: 5}, Ctim: unix.Timespec{Sec: 6, Nsec: 7}}
	seen := map[string]string{}
	for name, change := range map[string]func(st *unix.Stat_t){
		"same": func(*unix.Stat_t) {}, "device": func(st *unix.Stat_t) { st.Dev++ }, "inode": func(st *unix.Stat_t) { st.Ino++ },
		"size": func(st *unix.Stat_t) { st.Size++ }, "mtime": func(st *unix.Stat_t) { st.Mtim.Nsec++ }, "ctime": func(st *unix.Stat_t) { st.Ctim.Nsec++ },
	} {
		st := first
		change(&st)
		h := newIdentities()
		h.add("name", &st)
		if other, there := seen[string(h.Sum(nil))]; there {
			t.Errorf("%s and %s are one", name, other)
		}
		seen[string(h.Sum(nil))] = name
	}
}

// What has just changed could change again in the same tick, and the time be that of another clock.
func TestWhatIsYoungIsNotTrusted(t *testing.T) {
	for _, later := range []time.Duration{0, time.Second, -time.Hour} {
		b := newBed(t)
		c := b.open()
		c.clock = func() time.Time { return time.Now().Add(later) }
		c.Learn("web", "uuid", c.Look("web", both), "told")
		c.Save(true)
		if b.known() {
			t.Errorf("it is trusted after %s", later)
		}
	}
}

func TestWhatChangesWhileItIsAskedForIsNotTrusted(t *testing.T) {
	b := newBed(t)
	c := b.open()
	before := c.Look("web", both)
	must(t, os.WriteFile(b.path("a"), []byte("A"), 0o600))
	c.Learn("web", "uuid", before, "told")
	c.Save(true)
	if b.known() {
		t.Error("it is trusted")
	}
}

func TestAnotherDomainAndAnotherLifeKnowNothing(t *testing.T) {
	b := newBed(t)
	b.learn()
	for _, c := range []*Cache[string]{b.openAs("another"), b.open()} {
		if _, known := c.Known("web", "another", c.Look("web", both)); known {
			t.Error("another UUID has the snapshots")
		}
	}
	other := b.openAs("another")
	if _, known := other.Known("web", "uuid", other.Look("web", both)); known {
		t.Error("a process that was started anew is not asked")
	}
	c := b.open()
	if _, known := c.Known("web", "uuid", c.Look("web", []string{"a"})); known {
		t.Error("other snapshots are the same")
	}
	if _, known := c.Known("web", "uuid", Proof{}); known {
		t.Error("nothing proves something")
	}
	var none *Cache[string]
	if _, known := none.Known("web", "uuid", none.Look("web", both)); known {
		t.Error("no cache knows something")
	}
}

// Names come from libvirt, and go nowhere but into its directory.
func TestNamesStayInTheDirectory(t *testing.T) {
	b := newBed(t)
	must(t, os.WriteFile(filepath.Join(b.dir, "x.xml"), nil, 0o600))
	c := b.open()
	for _, n := range [][2]string{{".", "x"}, {"..", "x"}, {"web", "../x"}, {"web/../web", "a"}, {"", "x"}, {"web", ""}, {"web\x00", "a"}} {
		if c.Look(n[0], []string{n[1]}).proves() {
			t.Errorf("%q proves something", n)
		}
	}
	if c.Look("web", nil).proves() {
		t.Error("no snapshots prove something")
	}
}

// A file that is not whole, not ours or of another version is as if there were none, and is written anew.
func TestABadFileIsNone(t *testing.T) {
	b := newBed(t)
	b.learn()
	good, err := os.ReadFile(b.file)
	must(t, err)
	bad := map[string]func(){
		"a directory":  func() { must(t, os.Mkdir(b.file, 0o700)) },
		"a pipe":       func() { must(t, unix.Mkfifo(b.file, 0o600)) },
		"a link":       func() { must(t, os.WriteFile(b.file+"2", good, 0o600)); must(t, os.Symlink(b.file+"2", b.file)) },
		"for everyone": func() { must(t, os.WriteFile(b.file, good, 0o600)); must(t, os.Chmod(b.file, 0o666)) },
		"huge": func() {
			must(t, os.WriteFile(b.file, good, 0o600))
			must(t, os.Truncate(b.file, mostBytes+1))
		},
		"another version": func() {
			must(t, os.WriteFile(b.file, append([]byte("virt-rotate snapshots 2 "), good[len(magic):]...), 0o600))
		},
	}
	for i := range good {
		if i%41 == 0 {
			bad[fmt.Sprintf("cut off at %d", i)] = func() { must(t, os.WriteFile(b.file, good[:i], 0o600)) }
			damaged := append([]byte{}, good...)
			damaged[i] ^= 1
			bad[fmt.Sprintf("damaged at %d", i)] = func() { must(t, os.WriteFile(b.file, damaged, 0o600)) }
		}
	}
	for name, spoil := range bad {
		must(t, os.RemoveAll(b.file))
		spoil()
		if b.known() {
			t.Errorf("%s: it is believed", name)
		}
	}
	must(t, os.RemoveAll(b.file))
	bad["damaged at 0"]()
	b.learn()
}

func TestTheFileIsForItsUserAlone(t *testing.T) {
	b := newBed(t)
	b.learn()
	info, err := os.Stat(b.file)
	must(t, err)
	if info.Mode() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
}

// Where nothing can be written there is no cache, and no error.
func TestWithoutADirectoryThereIsNoCache(t *testing.T) {
	b := newBed(t)
	b.file = filepath.Join(b.file, "none", "cache")
	c := b.open()
	c.Learn("web", "uuid", c.Look("web", both), "told")
	c.Save(true)
	if _, err := os.Stat(filepath.Dir(b.file)); err == nil || b.known() {
		t.Error("the directory was made")
	}
}

func TestWhatIsTooLargeIsNotKept(t *testing.T) {
	b := newBed(t)
	b.learn()
	must(t, os.WriteFile(b.path("a"), []byte("A"), 0o600))
	c := b.open()
	c.Learn("web", "uuid", c.Look("web", both), string(make([]byte, mostBytes)))
	c.Save(true)
	if b.known() {
		t.Error("it was kept")
	}
	c = b.open()
	before := c.Look("web", both)
	for i := range mostDomains + 3 {
		c.Learn(fmt.Sprint(i), "uuid", before, "told")
	}
	if len(c.seen) != mostDomains {
		t.Errorf("%d domains are kept", len(c.seen))
	}
}

// A look at the whole host forgets domains that are gone; one that was broken off does not.
func TestDomainsThatAreGoneAreForgotten(t *testing.T) {
	b := newBed(t)
	b.learn()
	for _, all := range []bool{false, true} {
		c := b.open()
		c.Save(all)
		if b.known() == all {
			t.Errorf("a look at all: %v, and it is known: %v", all, !all)
		}
	}
}

// Who is broken off after a while has what was learned so far the next time.
func TestWhatWasLearnedIsKeptOnTheWay(t *testing.T) {
	b := newBed(t)
	c := b.open()
	c.Learn("web", "uuid", c.Look("web", both), "told")
	c.SaveNowAndThen()
	if !b.known() {
		t.Error("an hour was for nothing")
	}
}

// Of several writers at once one wins; each reader meets a whole file.
func TestWritersAtOnce(t *testing.T) {
	b := newBed(t)
	b.learn()
	var wg sync.WaitGroup
	for range 8 {
		c := b.open()
		wg.Go(func() {
			for range 5 {
				before := c.Look("web", both)
				c.Learn("web", "uuid", before, "told")
				c.Save(true)
				if _, err := load[string](b.file, "life"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
