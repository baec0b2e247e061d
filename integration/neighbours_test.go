package integration_test

import (
	be "encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// What becomes of merges beside a neighbour.
const (
	harmless = "merges go on"
	doubtful = "nothing is merged beside it, no snapshot goes, and it is named"
	user     = "its backing file is kept for it"
)

// A neighbour is something in the directory of a guest's images.
type neighbour struct {
	name, file string
	put        func(t *testing.T, path string, layers []guest.Layer)
	is         string
}

// neighbours are what an administrator, a broken tool or an attacker may leave
// beside the images. layers are those of the guest, the active one first.
// Two users in a row of one bed would leave nothing to be told of the second.
var neighbours = []neighbour{
	{"garbage behind the magic", "x.qcow2", write("QFI\xfb\x00\x00\x00\x03" + strings.Repeat("\xee", 500)), harmless},
	{"a version that nobody knows", "x.qcow2", write("QFI\xfb\x00\x00\x00\x63" + strings.Repeat("\x00", 500)), doubtful},
	{"the magic and no more", "x.qcow2", write("QFI\xfb"), harmless},
	{"a header that is cut off", "x.qcow2", write("QFI\xfb\x00\x00\x00\x03" + strings.Repeat("\x00", 30)), harmless},
	{"huge tables", "x.qcow2", hugeTables, harmless},
	{"a backing name beyond the file", "x.qcow2", farName, doubtful},
	{"an image that builds on itself", "x.qcow2", onItself, harmless},
	{"a link in a circle", "x.qcow2", func(t *testing.T, path string, _ []guest.Layer) { must(t, os.Symlink(filepath.Base(path), path)) }, doubtful},
	{"random bytes", "x.img", write(strings.Repeat("no image at all ", 999)), harmless},
	{"an empty file", "x.qcow2", write(""), harmless},
	{"a pipe", "x.qcow2", func(t *testing.T, path string, _ []guest.Layer) { must(t, syscall.Mkfifo(path, 0o600)) }, harmless},
	{"a link to a pipe", "x.qcow2", linkToPipe, harmless},
	{"a link to an endless device", "x.qcow2", func(t *testing.T, path string, _ []guest.Layer) { must(t, os.Symlink("/dev/zero", path)) }, harmless},
	{"a directory", "x.qcow2", func(t *testing.T, path string, _ []guest.Layer) { must(t, os.Mkdir(path, 0o755)) }, harmless},
	{"a link to nothing", "x.qcow2", func(t *testing.T, path string, _ []guest.Layer) { must(t, os.Symlink("nowhere.qcow2", path)) }, harmless},
	{"a link to the base", "x.qcow2", func(t *testing.T, path string, layers []guest.Layer) {
		must(t, os.Symlink(layers[len(layers)-1].Path, path))
	}, harmless},
	{"an image that builds on a pipe", "x.qcow2", onPipe, harmless},
	{"an image that builds on the base", "x.qcow2", onBase, user},
	{"the same by a relative name, unreadable to others", "x.qcow2", onBaseRelatively, user},
	{"an image of another disk format", "x.vmdk", vmdk, harmless},
	{"a download that broke off", "x.qcow2", brokenOff, harmless},
	{"an image in a format of old that builds on the base", "x.qed", qedOnBase, user},
	{"one of the first version of qcow", "x.qcow", qcowOnBase, user},
	{"a name of the base on another host", "x.qcow2", elsewhere, doubtful},
}

// write puts a text there.
func write(text string) func(*testing.T, string, []guest.Layer) {
	return func(t *testing.T, path string, _ []guest.Layer) { must(t, os.WriteFile(path, []byte(text), 0o600)) }
}

// header makes an image and changes its header; see QEMU docs/interop/qcow2.
func header(t *testing.T, path string, change func(h []byte)) {
	t.Helper()
	_, err := guest.QemuImg(t.Context(), "create", "-q", "-f", "qcow2", path, "8M")
	must(t, err)
	image, err := os.ReadFile(path)
	must(t, err)
	change(image)
	must(t, os.WriteFile(path, image, 0o600))
}

// hugeTables claims the largest disk and tables that go with it.
func hugeTables(t *testing.T, path string, _ []guest.Layer) {
	header(t, path, func(h []byte) {
		be.BigEndian.PutUint64(h[24:], 1<<62)      // size
		be.BigEndian.PutUint32(h[36:], 0xffffffff) // entries of the L1 table
		be.BigEndian.PutUint32(h[56:], 0xffffffff) // clusters of the refcount table
	})
}

func farName(t *testing.T, path string, _ []guest.Layer) {
	header(t, path, func(h []byte) {
		be.BigEndian.PutUint64(h[8:], 1<<60) // of the backing name
		be.BigEndian.PutUint32(h[16:], 1023) // its length
	})
}

func onItself(t *testing.T, path string, _ []guest.Layer) {
	overlayOn(t, path+".new", path, "qcow2")
	must(t, os.Rename(path+".new", path))
}

func onPipe(t *testing.T, path string, _ []guest.Layer) {
	must(t, syscall.Mkfifo(path+".pipe", 0o600))
	overlayOn(t, path, path+".pipe", "raw")
}

func linkToPipe(t *testing.T, path string, _ []guest.Layer) {
	must(t, syscall.Mkfifo(path+".pipe", 0o600))
	must(t, os.Symlink(path+".pipe", path))
}

func onBase(t *testing.T, path string, layers []guest.Layer) {
	base := layers[len(layers)-1]
	overlayOn(t, path, base.Path, base.Format)
}

// onBaseRelatively has mode 0, which keeps everybody out but root.
func onBaseRelatively(t *testing.T, path string, layers []guest.Layer) {
	base := layers[len(layers)-1]
	overlayOn(t, path, filepath.Base(base.Path), base.Format)
	must(t, os.Chmod(path, 0))
}

func overlayOn(t *testing.T, path, backing, format string) {
	t.Helper()
	_, err := guest.QemuImg(t.Context(), "create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", format, path, "8M")
	must(t, err)
}

// qedOnBase and qcowOnBase are overlays of older formats, as far as it takes to tell what
// they build on: see QEMU docs/interop/qed_spec and block/qcow.c.
func qedOnBase(t *testing.T, path string, layers []guest.Layer) {
	name := layers[len(layers)-1].Path
	h := make([]byte, 64, 4096)
	copy(h, "QED\x00")
	be.LittleEndian.PutUint32(h[4:], 65536)
	be.LittleEndian.PutUint32(h[8:], 4)
	be.LittleEndian.PutUint32(h[12:], 1)
	be.LittleEndian.PutUint64(h[16:], 1) // it has a backing file
	be.LittleEndian.PutUint32(h[56:], 64)
	be.LittleEndian.PutUint32(h[60:], uint32(len(name)))
	must(t, os.WriteFile(path, append(append(h, name...), make([]byte, 500)...), 0o600))
}

func qcowOnBase(t *testing.T, path string, layers []guest.Layer) {
	name := layers[len(layers)-1].Path
	h := make([]byte, 48, 4096)
	copy(h, "QFI\xfb\x00\x00\x00\x01")
	be.BigEndian.PutUint64(h[8:], 48)
	be.BigEndian.PutUint32(h[16:], uint32(len(name)))
	must(t, os.WriteFile(path, append(append(h, name...), make([]byte, 500)...), 0o600))
}

func vmdk(t *testing.T, path string, _ []guest.Layer) {
	_, err := guest.QemuImg(t.Context(), "create", "-q", "-f", "vmdk", path, "8M")
	must(t, err)
}

func brokenOff(t *testing.T, path string, _ []guest.Layer) {
	_, err := guest.QemuImg(t.Context(), "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", path, "64M")
	must(t, err)
	must(t, os.Truncate(path, 1000))
}

// elsewhere is a clone of another host, which has the storage mounted in another place.
func elsewhere(t *testing.T, path string, layers []guest.Layer) {
	overlayOn(t, path, "/srv/of/another/host/"+filepath.Base(layers[len(layers)-1].Path), "qcow2")
}

// No neighbour changes what a guest and its snapshots read, none is changed itself,
// none makes virt-rotate wait, and none that may build on a layer is forgotten. When
// it is gone, what was left out is made good.
func TestNeighboursThatCannotBeTrusted(t *testing.T) {
	t.Parallel()
	const shards = 2 // beds at a time
	for shard := range shards {
		t.Run(fmt.Sprint(shard), func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			b.logsOnFailure("g1")
			b.writePolicy(keep("2", ""))
			b.boot(guest.Spec{Name: "g1"})
			b.rotations("g1", 2)
			for i, n := range few(neighbours, 8) {
				if i%shards == shard {
					b.besideNeighbour(n)
				}
			}
			b.recover("g1", 3, "--no-snapshot")
			b.bring("g1", "running")
			b.wantInOrder("g1", 3)
		})
	}
}

// besideNeighbour rotates the guest, shut off, beside the neighbour, and without it.
func (b *bed) besideNeighbour(n neighbour) {
	b.t.Helper()
	b.bring("g1", "running")
	b.waitWrites("g1", 20)
	b.destroy("g1")
	layers, kept, now := b.chain("g1", "vda"), b.survivors("g1", "--now"), b.checkGuest("g1")
	base := layers[len(layers)-1].Path
	was := sum(b.t, base)
	path := b.path("images", n.file)
	n.put(b.t, path, layers)
	before := tree(b.t, path)
	began := time.Now()
	r := b.rotate("run", "--now", "--output=json")
	if took := time.Since(began); took > 20*time.Second {
		b.t.Errorf("%s: the run took %v", n.name, took)
	}
	var out report
	r.wantExit(b.t, map[bool]int{false: 0, true: 3}[n.is == doubtful]).decode(b.t, &out)
	told := strings.Contains(r.Stdout, path)
	if merged := sum(b.t, base) != was; merged != (n.is == harmless) || told == merged {
		b.t.Errorf("%s: want that %s; merged: %v, told: %v: %v", n.name, n.is, merged, told, r)
	}
	if r := b.rotate("doctor"); n.is == doubtful && (r.Exit != 1 || !strings.Contains(r.Stdout, path)) {
		b.t.Errorf("%s: doctor says nothing of it: %v", n.name, r)
	}
	b.wantSurvivors("g1", kept)
	if is := b.checkGuest("g1")["vda"]; is != now["vda"] {
		b.t.Errorf("%s: the guest's disk went from %v to %v", n.name, now["vda"], is)
	}
	if after := tree(b.t, path); after != before {
		b.t.Errorf("%s has changed from %s to %s", n.name, before, after)
	}
	must(b.t, os.Remove(path))
	_ = os.Remove(path + ".pipe")
}

// tree describes a file, without reading what is no file.
func tree(t *testing.T, path string) string {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	text := fmt.Sprint(info.Mode(), info.Size(), info.ModTime())
	switch info.Mode().Type() {
	case 0:
		text += sum(t, path)
	case fs.ModeSymlink:
		to, err := os.Readlink(path)
		must(t, err)
		text += to
	}
	return text
}
