package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/convert"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/tidy"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

const diskSize = 1 << 18

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func quiet(string, int64) (func(int64), func()) { return func(int64) {}, func() {} }

func converter() *convert.Converter {
	return &convert.Converter{Store: formats.Store(vfs.OS(), nil), Progress: quiet}
}

// A disk in a file, whose states are exported.
type disk struct {
	t    *testing.T
	dir  string
	data []byte
}

func newDisk(t *testing.T) *disk {
	return &disk{t, tidy.InMemory(t), make([]byte, diskSize)}
}

func (d *disk) path(name string) string { return filepath.Join(d.dir, name) }

// changes writes what is there now into a file of its own.
func (d *disk) changes(seed uint64) []chain.Node {
	d.t.Helper()
	random := rand.New(rand.NewPCG(seed, 1))
	for range 5 {
		at := random.IntN(len(d.data)/4096) * 4096
		for i := range 4096 {
			d.data[at+i] = byte(random.Uint32())
		}
	}
	path := d.path("state-" + string(rune('a'+seed)))
	must(d.t, os.WriteFile(path, d.data, 0o600))
	n, err := converter().Store.Node(path, "raw")
	must(d.t, err)
	return []chain.Node{n}
}

// export writes the state of that number; base is the export it builds on, or "".
func (d *disk) export(number uint64, name, base string) string {
	d.t.Helper()
	format, err := formats.Named("qcow2")
	must(d.t, err)
	m := Manifest{Domain: "web", UUID: "11111111-2222-3333-4444-555555555555", Exported: time.Unix(1, 0), Snapshot: Snapshot{Name: "s"}}
	x := &Exporter{Converter: converter(), Format: format}
	if base != "" {
		x.Base, err = Open(base)
		must(d.t, err)
		m.Base = &Base{filepath.Base(x.Base.Dir), x.Base.ManifestSHA256}
	}
	sources := []*Source{{Target: "vda", Nodes: d.changes(number)}}
	must(d.t, x.Measure(d.t.Context(), sources, d.dir))
	w, err := Begin(d.path(name), m, func(string) {})
	must(d.t, err)
	must(d.t, w.Add(Content{Kind: KindDomain, Name: "domain.xml", Mode: 0o600, Text: []byte("<domain/>")}))
	must(d.t, x.Export(d.t.Context(), w, sources))
	must(d.t, w.Finish())
	return d.path(name)
}

// wrongOf is what verify says, also where that is an error.
func wrongOf(ctx context.Context, dir string, full bool) []DamagedError {
	b, err := Open(dir)
	if err == nil {
		c := Check{Store: converter().Store, Full: full, Progress: quiet}
		var wrong []DamagedError
		if wrong, err = c.Verify(ctx, b); err == nil {
			return wrong
		}
	}
	var bad *DamagedError
	if errors.As(err, &bad) {
		return []DamagedError{*bad}
	}
	return []DamagedError{{dir, err.Error()}}
}

func TestAChainOfExportsReadsAsEachState(t *testing.T) {
	d := newDisk(t)
	one := d.export(0, "one", "")
	first := sha256.Sum256(d.data)
	two := d.export(1, "two", one)
	second := sha256.Sum256(d.data)
	for dir, want := range map[string][32]byte{one: first, two: second} {
		b, err := Open(dir)
		must(t, err)
		if got := b.Disk("vda").ContentSHA256; got != hex.EncodeToString(want[:]) {
			t.Errorf("%s: %s is not the state", dir, got)
		}
		if wrong := wrongOf(t.Context(), dir, true); len(wrong) > 0 {
			t.Errorf("%s: %v", dir, wrong)
		}
	}
	b, err := Open(two)
	must(t, err)
	if len(b.Chain()) != 2 || b.Disk("vda").Backing != "../one/vda.qcow2" {
		t.Errorf("%+v", b.Manifest)
	}
	if left, err := Leftovers(d.dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestIncrementsOfDisksThatGrowAndShrink(t *testing.T) {
	d := newDisk(t)
	dir := d.export(0, "a", "")
	for n, size := range []int{2 * diskSize, diskSize / 2, diskSize + 4096, diskSize + 512} {
		d.data = append(d.data, make([]byte, 2*diskSize)...)[:size]
		dir = d.export(uint64(n+1), string(rune('b'+n)), dir)
		want := sha256.Sum256(d.data)
		b, err := Open(dir)
		must(t, err)
		if got := b.Disk("vda"); got.ContentSHA256 != hex.EncodeToString(want[:]) || got.VirtualSize != int64(size) {
			t.Errorf("of %d bytes: %+v", size, got)
		}
	}
	if wrong := wrongOf(t.Context(), dir, true); len(wrong) > 0 {
		t.Error(wrong)
	}
}

// Each file of a chain, each byte of which is another one in turn: but for a few hundred of an
// image, which stand for all of it.
func TestVerifySeesEachFlippedByte(t *testing.T) {
	d := newDisk(t)
	two := d.export(1, "two", d.export(0, "one", ""))
	flips := 0
	for _, dir := range []string{"one", "two"} {
		for _, name := range []string{"vda.qcow2", "domain.xml", ManifestName, SumsName} {
			path := filepath.Join(d.dir, dir, name)
			text, err := os.ReadFile(path)
			must(t, err)
			step := max(1, len(text)/300|1)
			for at := 0; at < len(text); at += step {
				text[at] ^= 1
				must(t, os.WriteFile(path, text, 0o600))
				if wrong := wrongOf(t.Context(), two, false); len(wrong) == 0 {
					t.Errorf("%s: byte %d of %d is another one, and nobody noticed", path, at, len(text))
				}
				text[at] ^= 1
				flips++
			}
			must(t, os.WriteFile(path, text, 0o600))
		}
	}
	if wrong := wrongOf(t.Context(), two, true); len(wrong) > 0 || flips < 1500 {
		t.Errorf("%d flips; put back: %v", flips, wrong)
	}
}

func TestVerifySeesWhatIsMissingAndExchanged(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, d *disk){
		"image":    func(t *testing.T, d *disk) { must(t, os.Remove(d.path("two/vda.qcow2"))) },
		"below":    func(t *testing.T, d *disk) { must(t, os.Remove(d.path("one/vda.qcow2"))) },
		"XML":      func(t *testing.T, d *disk) { must(t, os.Remove(d.path("three/domain.xml"))) },
		"sums":     func(t *testing.T, d *disk) { must(t, os.Remove(d.path("two/SHA256SUMS"))) },
		"manifest": func(t *testing.T, d *disk) { must(t, os.Remove(d.path("one/manifest.json"))) },
		"export":   func(t *testing.T, d *disk) { must(t, os.RemoveAll(d.path("two"))) },
		"longer":   func(t *testing.T, d *disk) { appendTo(t, d.path("one/vda.qcow2")) },
		"link": func(t *testing.T, d *disk) {
			must(t, os.Rename(d.path("two/vda.qcow2"), d.path("elsewhere")))
			must(t, os.Symlink(d.path("elsewhere"), d.path("two/vda.qcow2")))
		},
		"exchanged": func(t *testing.T, d *disk) {
			must(t, os.RemoveAll(d.path("two")))
			d.export(7, "two", d.path("one"))
		},
		"exchanged images": func(t *testing.T, d *disk) {
			must(t, os.Rename(d.path("two/vda.qcow2"), d.path("x")))
			must(t, os.Rename(d.path("three/vda.qcow2"), d.path("two/vda.qcow2")))
			must(t, os.Rename(d.path("x"), d.path("three/vda.qcow2")))
		},
		"exchanged directories": func(t *testing.T, d *disk) {
			must(t, os.Rename(d.path("two"), d.path("x")))
			must(t, os.Rename(d.path("one"), d.path("two")))
			must(t, os.Rename(d.path("x"), d.path("one")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDisk(t)
			top := d.export(2, "three", d.export(1, "two", d.export(0, "one", "")))
			if wrong := wrongOf(t.Context(), top, true); len(wrong) > 0 {
				t.Fatal(wrong)
			}
			spoil(t, d)
			if wrong := wrongOf(t.Context(), top, false); len(wrong) == 0 {
				t.Error("nobody noticed")
			}
		})
	}
}

func appendTo(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.Write([]byte{0})
	must(t, errors.Join(err, f.Close()))
}

// With sums that fit, --full alone sees that the guest would read other data.
func TestFullVerifyReadsWhatTheGuestWould(t *testing.T) {
	d := newDisk(t)
	dir := d.export(0, "one", "")
	d.rewrite(dir, func(m *Manifest) { m.Disks[0].ContentSHA256 = strings.Repeat("0", 64) })
	if wrong := wrongOf(t.Context(), dir, false); len(wrong) > 0 {
		t.Errorf("%v", wrong)
	}
	if wrong := wrongOf(t.Context(), dir, true); len(wrong) != 1 || !strings.Contains(wrong[0].Reason, "the guest would read") {
		t.Errorf("%v", wrong)
	}
}

// rewrite changes the manifest, with sums that fit.
func (d *disk) rewrite(dir string, change func(*Manifest)) {
	d.t.Helper()
	b, err := Open(dir)
	must(d.t, err)
	change(&b.Manifest)
	text, err := json.Marshal(&b.Manifest)
	must(d.t, err)
	must(d.t, os.WriteFile(filepath.Join(dir, ManifestName), text, 0o600))
	must(d.t, os.WriteFile(filepath.Join(dir, SumsName), b.sumsText(text), 0o600))
}

// A manifest that anybody may have written leads nowhere.
func TestHostileManifests(t *testing.T) {
	d := newDisk(t)
	dir := d.export(1, "one", d.export(0, "zero", ""))
	must(t, os.Symlink(d.path("zero"), d.path("link")))
	good, err := os.ReadFile(filepath.Join(dir, ManifestName))
	must(t, err)
	for name, change := range map[string]func(*Manifest){
		"version":              func(m *Manifest) { m.Version = 2 },
		"no disk":              func(m *Manifest) { m.Disks = nil },
		"many disks":           func(m *Manifest) { m.Disks = make([]Disk, maxDisks+1) },
		"way up":               func(m *Manifest) { m.Disks[0].File = "../one/vda.qcow2" },
		"absolute":             func(m *Manifest) { m.Disks[0].File = "/etc/passwd" },
		"below":                func(m *Manifest) { m.Disks[0].File = "a/b" },
		"hidden":               func(m *Manifest) { m.Disks[0].File = ".." },
		"empty name":           func(m *Manifest) { m.Disks[0].File = "" },
		"newline":              func(m *Manifest) { m.Disks[0].File = "a\nb" },
		"escape":               func(m *Manifest) { m.Disks[0].Target = "\x1b[2J" },
		"target with a slash":  func(m *Manifest) { m.Disks[0].Target = "../../x" },
		"itself":               func(m *Manifest) { m.Disks[0].File = ManifestName },
		"twice":                func(m *Manifest) { m.Disks = append(m.Disks, m.Disks[0]) },
		"format":               func(m *Manifest) { m.Disks[0].Format = "luks" },
		"other format":         func(m *Manifest) { m.Disks[0].Format = "raw" },
		"size":                 func(m *Manifest) { m.Disks[0].VirtualSize = -1 },
		"huge":                 func(m *Manifest) { m.Disks[0].VirtualSize = 1 << 62 },
		"other size":           func(m *Manifest) { m.Disks[0].VirtualSize = 512 },
		"sum":                  func(m *Manifest) { m.Disks[0].SHA256 = "x" },
		"builds on a file":     func(m *Manifest) { m.Disks[0].Backing = "/etc/passwd" },
		"builds on another":    func(m *Manifest) { m.Disks[0].Backing = "../none/vda.qcow2" },
		"builds on nothing":    func(m *Manifest) { m.Disks[0].Backing = "" },
		"file of another kind": func(m *Manifest) { m.Files[0].Kind = "firmware" },
		"no XML":               func(m *Manifest) { m.Files = nil },
		"file with a way up":   func(m *Manifest) { m.Files[0].File = "../domain.xml" },
		"file's mode":          func(m *Manifest) { m.Files[0].Mode = "04755" },
		"file's owner":         func(m *Manifest) { m.Files[0].Owner = "root" },
		"file's size":          func(m *Manifest) { m.Files[0].Size = 1 << 40 },
		"domain":               func(m *Manifest) { m.Domain = "../../etc/x" },
		"domain, escape":       func(m *Manifest) { m.Domain = "x\x1b" },
		"UUID":                 func(m *Manifest) { m.UUID = "x" },
		"base, a way up":       func(m *Manifest) { m.Base.Dir = "../x" },
		"base, upwards":        func(m *Manifest) { m.Base.Dir = ".." },
		"base, absolute":       func(m *Manifest) { m.Base.Dir = "/etc" },
		"base, itself":         func(m *Manifest) { m.Base.Dir = "one" },
		"base, not there":      func(m *Manifest) { m.Base.Dir = "none" },
		"base, a link":         func(m *Manifest) { m.Base.Dir = "link" },
		"base, another":        func(m *Manifest) { m.Base.ManifestSHA256 = strings.Repeat("0", 64) },
	} {
		d.rewrite(dir, change)
		if wrong := wrongOf(t.Context(), dir, true); len(wrong) == 0 {
			t.Errorf("%s is believed", name)
		}
		must(t, os.WriteFile(filepath.Join(dir, ManifestName), good, 0o600))
	}
	d.rewrite(dir, func(*Manifest) {})
	if wrong := wrongOf(t.Context(), dir, true); len(wrong) > 0 {
		t.Errorf("what is not hostile: %v", wrong)
	}
}

func TestManifestsThatAreNone(t *testing.T) {
	d := newDisk(t)
	dir := d.export(0, "one", "")
	path := filepath.Join(dir, ManifestName)
	good, err := os.ReadFile(path)
	must(t, err)
	for name, text := range map[string][]byte{
		"empty": nil, "no JSON": []byte("x"), "null": []byte("null"), "more": append(bytes.Clone(good), "{}"...),
		"large": append(bytes.Clone(good), make([]byte, maxManifest)...), "deep": bytes.Repeat([]byte("["), maxManifest-1),
	} {
		must(t, os.WriteFile(path, text, 0o600))
		if b, err := Open(dir); err == nil {
			t.Errorf("%s: %+v", name, b)
		}
	}
	must(t, os.Remove(path))
	must(t, os.Symlink("/dev/zero", path))
	if b, err := Open(dir); err == nil {
		t.Errorf("a link: %+v", b)
	}
}

// An image that names another backing file than the manifest is not followed.
func TestBackingNamesInImagesAreNotFollowed(t *testing.T) {
	d := newDisk(t)
	two := d.export(1, "two", d.export(0, "one", ""))
	secret := d.path("secret")
	must(t, os.WriteFile(secret, bytes.Repeat([]byte("secret"), diskSize/6), 0o600))
	must(t, converter().Store.Relink(filepath.Join(two, "vda.qcow2"), "qcow2", secret, "qcow2"))
	d.rewrite(two, func(m *Manifest) {
		sum, size, err := fileSum(t.Context(), filepath.Join(two, "vda.qcow2"))
		must(t, err)
		m.Disks[0].SHA256, m.Disks[0].Size = sum, size
	})
	if wrong := wrongOf(t.Context(), two, true); len(wrong) != 1 || !strings.Contains(wrong[0].Reason, "builds on") {
		t.Errorf("%v", wrong)
	}
}
