package filetree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree opens a directory as a guest's root.
func tree(t *testing.T, dir string) *Tree {
	t.Helper()
	f, err := os.Open(dir)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return New(f)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(text), 0o644))
}

func want(t *testing.T, path, text string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != text {
		t.Errorf("%s: %q, %v; want %q", path, got, err, text)
	}
}

// told is a Copier that keeps what it is told.
type told struct {
	Copier
	left   []string
	errors []string
}

func newTold(c Copier) *told {
	x := &told{Copier: c}
	x.Left = func(e *Entry) { x.left = append(x.left, e.Path) }
	x.Failed = func(err error) { x.errors = append(x.errors, err.Error()) }
	return x
}

func copied(t *testing.T, from, to string, c Copier, names ...string) *told {
	t.Helper()
	x := newTold(c)
	must(t, tree(t, from).Copy(t.Context(), names, to, &x.Copier))
	return x
}

// Whatever links a tree has, nothing outside of it is read, and nothing outside of the target
// is written.
func TestNoLinkLeadsOut(t *testing.T) {
	dir := t.TempDir()
	guest, out, host := filepath.Join(dir, "guest"), filepath.Join(dir, "out"), filepath.Join(dir, "host")
	write(t, host+"/secret", "of the host")
	write(t, guest+"/etc/secret", "of the guest")
	write(t, guest+host+"/secret", "of the guest, under the host's name")
	for name, to := range map[string]string{"absolute": host + "/secret", "up": "../../../../../../../.." + host + "/secret", "dir": host, "etc/rel": "secret", "loop": "loop"} {
		must(t, os.Symlink(to, filepath.Join(guest, name)))
	}
	must(t, os.Mkdir(out, 0o755))
	for _, name := range []string{"/absolute", "/up", "/dir/secret", "/../../.." + host + "/secret"} {
		to := filepath.Join(out, "copy")
		if x := copied(t, guest, to, Copier{Force: true}, name); len(x.errors) > 0 {
			t.Errorf("%s: %q", name, x.errors)
		}
		want(t, to, "of the guest, under the host's name")
	}
	copied(t, guest, filepath.Join(out, "rel"), Copier{}, "/etc/rel")
	want(t, out+"/rel", "of the guest")
	if x := copied(t, guest, out, Copier{}, "/loop"); len(x.errors) != 1 {
		t.Errorf("a loop: %q", x.errors)
	}
	copied(t, guest, out+"/all", Copier{Recursive: true}, "/")
	if to, err := os.Readlink(out + "/all/up"); err != nil || !strings.HasPrefix(to, "../../..") {
		t.Errorf("a link is not copied as it is: %q, %v", to, err)
	}
	want(t, host+"/secret", "of the host")
}

// A tree in which a link and then a directory have one name cannot be made to write through
// the link; neither can a link that stands in the target.
func TestALinkInTheTargetIsNotFollowed(t *testing.T) {
	dir := t.TempDir()
	guest, out, host := filepath.Join(dir, "guest"), filepath.Join(dir, "out"), filepath.Join(dir, "host")
	write(t, guest+"/a/x", "new")
	write(t, host+"/x", "of the host")
	must(t, os.MkdirAll(out+"/guest", 0o755))
	must(t, os.Symlink(host, out+"/a"))
	x := copied(t, guest, out, Copier{Recursive: true, Force: true}, "/a")
	if len(x.errors) != 1 {
		t.Errorf("%q", x.errors)
	}
	must(t, os.Remove(out+"/a"))
	must(t, os.Mkdir(out+"/a", 0o755))
	must(t, os.Symlink(host+"/x", out+"/a/x"))
	if x := copied(t, guest, out, Copier{Recursive: true, Force: true}, "/a"); len(x.errors) > 0 {
		t.Errorf("%q", x.errors)
	}
	want(t, host+"/x", "of the host")
	want(t, out+"/a/x", "new")
	if info, err := os.Lstat(out + "/a/x"); err != nil || !info.Mode().IsRegular() {
		t.Errorf("%v, %v: the link was to be replaced", info, err)
	}
}

func TestNothingIsOverwrittenUnasked(t *testing.T) {
	dir := t.TempDir()
	guest, out := filepath.Join(dir, "guest"), filepath.Join(dir, "out")
	write(t, guest+"/d/f", "new")
	write(t, out+"/f", "old")
	write(t, out+"/d/other", "old")
	for _, name := range []string{"/d/f", "/d"} {
		if x := copied(t, guest, out, Copier{Recursive: true}, name); len(x.errors) != 1 || !strings.Contains(x.errors[0], "--force") {
			t.Errorf("%s: %q", name, x.errors)
		}
	}
	want(t, out+"/f", "old")
	if _, err := os.Stat(out + "/d/f"); err == nil {
		t.Error("written into a directory that was there")
	}
	if x := copied(t, guest, out, Copier{Recursive: true, Force: true}, "/d/f", "/d"); len(x.errors) > 0 {
		t.Errorf("%q", x.errors)
	}
	want(t, out+"/f", "new")
	want(t, out+"/d/f", "new")
	want(t, out+"/d/other", "old")
	if x := copied(t, guest, out+"/d/f", Copier{Recursive: true, Force: true}, "/d"); len(x.errors) != 1 {
		t.Errorf("a directory over a file: %q", x.errors)
	}
	noTemps(t, out)
}

func noTemps(t *testing.T, dir string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if strings.HasPrefix(d.Name(), tempPrefix) {
			t.Errorf("left: %s", path)
		}
		return err
	}))
}

// special makes one of each kind of file that gives rights or does more than hold data.
func special(t *testing.T, dir string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	must(t, unix.Mknod(dir+"/disk", unix.S_IFBLK|0o666, int(unix.Mkdev(7, 200))))
	must(t, unix.Mknod(dir+"/char", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, os.Chmod(dir+"/disk", 0o640))
	must(t, unix.Mkfifo(dir+"/fifo", 0o666))
	must(t, unix.Mknod(dir+"/socket", unix.S_IFSOCK|0o666, 0))
	write(t, dir+"/su", "program")
	must(t, os.Chown(dir+"/su", 1234, 1235))
	must(t, os.Chmod(dir+"/su", 0o755|fs.ModeSetuid|fs.ModeSetgid))
	must(t, unix.Setxattr(dir+"/su", "security.capability", []byte("\x01\x00\x00\x02\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	must(t, unix.Setxattr(dir+"/su", "user.note", []byte("kept"), 0))
	when := time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)
	must(t, os.Chtimes(dir+"/su", when, when))
}

func capability(path string) bool {
	n, err := unix.Getxattr(path, "security.capability", nil)
	return err == nil && n > 0
}

func TestSpecialFilesAreLeftOutUnlessAskedFor(t *testing.T) {
	dir := t.TempDir()
	guest := filepath.Join(dir, "guest")
	special(t, guest+"/dev")
	x := copied(t, guest, dir+"/plain", Copier{Recursive: true}, "/dev")
	slices.Sort(x.left)
	if got := strings.Join(x.left, " "); got != "/dev/char /dev/disk /dev/fifo /dev/socket" || len(x.errors) > 0 {
		t.Errorf("left out: %q; %q", got, x.errors)
	}
	info, err := os.Stat(dir + "/plain/su")
	must(t, err)
	if st := info.Sys().(*syscall.Stat_t); info.Mode() != 0o755 || st.Uid != 0 || capability(dir+"/plain/su") || info.ModTime().Year() == 2001 {
		t.Errorf("plain: %v, owner %d, %v", info.Mode(), st.Uid, info.ModTime())
	}
	copied(t, guest, dir+"/archive", Copier{Archive: true}, "/dev")
	info, err = os.Stat(dir + "/archive/su")
	must(t, err)
	if st := info.Sys().(*syscall.Stat_t); info.Mode() != 0o755 || st.Uid != 1234 || st.Gid != 1235 || capability(dir+"/archive/su") || info.ModTime().Nanosecond() != 7 {
		t.Errorf("-a: %v, owner %d:%d, %v", info.Mode(), st.Uid, st.Gid, info.ModTime())
	}
	note := make([]byte, 10)
	if n, err := unix.Getxattr(dir+"/archive/su", "user.note", note); err != nil || string(note[:n]) != "kept" {
		t.Errorf("attribute: %q, %v", note, err)
	}
	if entries, _ := os.ReadDir(dir + "/archive"); len(entries) != 1 {
		t.Errorf("-a has copied %v", entries)
	}
	x = copied(t, guest, dir+"/special", Copier{Archive: true, Special: true}, "/dev")
	info, err = os.Lstat(dir + "/special/disk")
	must(t, err)
	if st := info.Sys().(*syscall.Stat_t); len(x.left)+len(x.errors) > 0 || info.Mode() != fs.ModeDevice|0o640 || st.Rdev != unix.Mkdev(7, 200) {
		t.Errorf("--special: %v, %q", info.Mode(), x.errors)
	}
	if info, err := os.Stat(dir + "/special/su"); err != nil || info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) == 0 || !capability(dir+"/special/su") {
		t.Errorf("--special: %v, %v", info, err)
	}
}

// A name that a pipe nobody writes to has by now does not hang, and is no regular file.
func TestOnlyRegularFilesAreOpened(t *testing.T) {
	dir := t.TempDir()
	must(t, unix.Mkfifo(dir+"/fifo", 0o666))
	f, err := os.Open(dir)
	must(t, err)
	defer f.Close()
	p := &place{Entry{Path: "/fifo"}, f, "fifo"}
	if _, err := p.openRegular(); err == nil {
		t.Error("a pipe was opened as a file")
	}
}

func TestHolesStayHoles(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/g/f", "begin")
	f, err := os.OpenFile(dir+"/g/f", os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("middle"), 3<<30)
	must(t, err)
	_, err = f.WriteAt(make([]byte, 1<<20), 4<<30) // zeros that are there
	must(t, err)
	must(t, f.Truncate(5<<30+1))
	must(t, f.Close())
	copied(t, dir+"/g", dir, Copier{}, "/f")
	info, err := os.Stat(dir + "/f")
	must(t, err)
	if st := info.Sys().(*syscall.Stat_t); info.Size() != 5<<30+1 || st.Blocks > 600 {
		t.Errorf("%d bytes in %d blocks", info.Size(), st.Blocks)
	}
	got, err := os.Open(dir + "/f")
	must(t, err)
	defer got.Close()
	b := make([]byte, 8)
	_, err = got.ReadAt(b, 3<<30-1)
	must(t, err)
	if string(b) != "\x00middle\x00" {
		t.Errorf("%q", b)
	}
}

// A copy that is interrupted leaves no half file, under no name.
func TestAnInterruptedCopyLeavesNoHalfFile(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(dir+"/g", 0o755))
	must(t, os.WriteFile(dir+"/g/f", bytes.Repeat([]byte("x"), 8<<20), 0o644))
	must(t, os.Mkdir(dir+"/out", 0o755))
	ctx, cancel := context.WithCancel(t.Context())
	c := newTold(Copier{Recursive: true})
	c.Done = func(int64) { cancel() }
	if err := tree(t, dir+"/g").Copy(ctx, []string{"/f"}, dir+"/out", &c.Copier); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir + "/out"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestQuotedNames(t *testing.T) {
	for name, quoted := range map[string]string{
		"plain ö 日本": "plain ö 日本", "a\nb": `a\nb`, "\x1b[31mred": `\x1b[31mred`, `a\nb`: `a\\nb`, "\xff\xfe": `\xff\xfe`,
		"\u202egpj.exe": `\u202egpj.exe`, "\u0085": `\u0085`, "\x7f": `\x7f`, "\ufffd": "\ufffd",
	} {
		if got := Quote(name); got != quoted {
			t.Errorf("%q: %s, want %s", name, got, quoted)
		}
	}
	seen := map[string]string{}
	for a := range 256 {
		for _, name := range []string{string([]byte{byte(a)}), fmt.Sprintf(`\x%02x`, a), "\\" + string([]byte{byte(a)})} {
			q := Quote(name)
			if other, ok := seen[q]; ok && other != name {
				t.Errorf("%q and %q look the same: %s", name, other, q)
			}
			seen[q] = name
			if strings.ContainsFunc(q, func(c rune) bool { return c < ' ' || c == 0x7f || c >= 0x80 && c < 0xa0 }) {
				t.Errorf("%q is not quoted: %q", name, q)
			}
		}
	}
}

func changes(t *testing.T, a, b string, d Differ) []string {
	t.Helper()
	var found []string
	d.Found = func(c *Change) error {
		kind := "M"
		if c.Old == nil {
			kind = "A"
		} else if c.New == nil {
			kind = "D"
		}
		found = append(found, strings.TrimSpace(kind+" "+c.Path+" "+strings.Join(c.What, ",")))
		return nil
	}
	d.Failed = func(err error) { found = append(found, err.Error()) }
	must(t, d.Diff(t.Context(), tree(t, a), tree(t, b), "/"))
	return found
}

func TestDifferences(t *testing.T) {
	dir := t.TempDir()
	a, b := dir+"/a", dir+"/b"
	for _, d := range []string{a, b} {
		write(t, d+"/same", "same")
		write(t, d+"/content", "one")
		write(t, d+"/d/mode", "")
		write(t, d+"/touched", "x")
	}
	write(t, b+"/content", "two")
	must(t, os.Chmod(b+"/d/mode", 0o600))
	write(t, a+"/gone/x", "")
	write(t, b+"/new/y", "")
	write(t, a+"/type", "")
	must(t, os.Symlink("same", b+"/type"))
	must(t, os.Chtimes(b+"/touched", time.Unix(1, 0), time.Unix(1, 0)))
	must(t, os.Chown(b+"/same", 5, 6))
	got := changes(t, a, b, Differ{})
	if want := []string{"M /content content", "M /d/mode mode", "D /gone", "D /gone/x", "A /new", "A /new/y", "M /same owner", "M /type type"}; !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
	if got := changes(t, a, b, Differ{Times: true}); !slices.Contains(got, "M /touched times") {
		t.Errorf("%q", got)
	}
	if got := changes(t, a, a, Differ{Contents: true}); len(got) > 0 {
		t.Errorf("%q", got)
	}
}

// files is how many files the large tree has: VIRT_ROTATE_FILES, or fewer.
func files(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("VIRT_ROTATE_FILES"))
	if err != nil {
		return 20000
	}
	return n
}

// Memory does not grow with the number of files.
func TestMemoryIsBounded(t *testing.T) {
	dir := t.TempDir()
	n := files(t)
	for i := range n {
		sub := fmt.Sprintf("%s/g/%d", dir, i/5000)
		if i%5000 == 0 {
			must(t, os.MkdirAll(sub, 0o755))
		}
		must(t, os.WriteFile(fmt.Sprintf("%s/%d", sub, i), nil, 0o644))
	}
	var before runtime.MemStats
	most, done := uint64(0), 0
	watch := func() {
		if done++; done%1000 != 0 {
			return
		}
		runtime.GC()
		var now runtime.MemStats
		runtime.ReadMemStats(&now)
		most = max(most, now.HeapAlloc)
	}
	runtime.GC()
	runtime.ReadMemStats(&before)
	g := tree(t, dir+"/g")
	must(t, g.Walk(t.Context(), "/", true, func(*Entry) error { watch(); return nil }, func(err error) { t.Error(err) }))
	if want := n + (n+4999)/5000; done != want {
		t.Errorf("%d files listed, want %d", done, want)
	}
	x := copied(t, dir+"/g", dir+"/out", Copier{Recursive: true}, "/")
	if len(x.errors) > 0 {
		t.Error(x.errors[0])
	}
	if found := changes(t, dir+"/g", dir+"/out", Differ{}); len(found) > 0 {
		t.Errorf("%d differences: %s", len(found), found[0])
	}
	runtime.GC()
	var after runtime.MemStats
	runtime.ReadMemStats(&after)
	if grown := max(most, after.HeapAlloc) - before.HeapAlloc; grown > 16<<20 && most > before.HeapAlloc {
		t.Errorf("memory grew by %d KiB for %d files", grown>>10, n)
	}
}

// A tree that goes down further than anybody's costs no more than its upper part.
func TestTooDeepIsTold(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/g", 0o755))
	at, err := os.Open(dir + "/g")
	must(t, err)
	for range 2 * maxDepth {
		must(t, unix.Mkdirat(int(at.Fd()), "d", 0o755))
		next, err := openAt(at, "d", "d", unix.O_RDONLY|unix.O_DIRECTORY)
		must(t, err)
		at.Close()
		at = next
	}
	at.Close()
	x := copied(t, dir+"/g", dir+"/out", Copier{Recursive: true}, "/")
	if len(x.errors) != 1 || !strings.Contains(x.errors[0], "directories in each other") {
		t.Errorf("%.200q", x.errors)
	}
	failed := 0
	must(t, tree(t, dir+"/g").Walk(t.Context(), "/", true, func(*Entry) error { return nil }, func(error) { failed++ }))
	if failed != 1 {
		t.Errorf("%d failures", failed)
	}
}
