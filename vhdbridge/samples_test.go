package vhdbridge

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// The samples were written by XenServer's own library; see vhd/testdata.
const samples = "vhd/testdata"

// unpack unpacks a sample into a directory of its own.
func unpack(t testing.TB, name string) string {
	t.Helper()
	f, err := os.Open(filepath.Join(samples, name+".tar.zst"))
	must(t, err)
	defer f.Close()
	z, err := zstd.NewReader(f)
	must(t, err)
	defer z.Close()
	dir := t.TempDir()
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return filepath.Join(dir, name)
		}
		must(t, err)
		path := filepath.Join(dir, filepath.Clean("/"+h.Name))
		if h.FileInfo().IsDir() {
			must(t, os.MkdirAll(path, 0o755))
			continue
		}
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		data, err := io.ReadAll(r)
		must(t, err)
		must(t, os.WriteFile(path, data, 0o600))
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func readers() map[string]Reader {
	return map[string]Reader{formatVHD: ReadVHD, formatRaw: ReadRaw}
}

func formats() []chain.Format {
	return []chain.Format{
		{Name: formatVHD, Probe: vhd.Probe, Open: func(f vfs.File, _ chain.DataOpener) (chain.Source, error) { return vhd.Open(f) }, Inspect: inspectVHD},
		{Name: formatRaw, Open: func(f vfs.File, _ chain.DataOpener) (chain.Source, error) { return chain.OpenRaw(f) }, Inspect: inspectRaw},
	}
}

func inspectVHD(f vfs.File) (chain.Image, error) {
	info, err := f.Stat()
	if err != nil {
		return chain.Image{}, err
	}
	i, err := vhd.ReadInfo(f, info.Size)
	return i.Image(), err
}

func inspectRaw(f vfs.File) (chain.Image, error) {
	facts, err := ReadRaw(f)
	return facts.Image, err
}

func bridge(fsys vfs.FS) *Bridge {
	return &Bridge{
		Store:   &chain.Store{FS: fsys, Formats: formats(), Locate: Locate},
		Readers: readers(),
		Hide:    map[string]func(vfs.File, bool) error{formatVHD: HideVHD},
		Space:   func(string) (int64, error) { return 1 << 40, nil },
		Report:  func(Event) {},
	}
}

func scan(t testing.TB, fsys vfs.FS, dir string) *Repository {
	t.Helper()
	r, err := Scan(fsys, dir, readers())
	must(t, err)
	return r
}

// sumOf is the sha256 of what a guest would see of the node.
func sumOf(t testing.TB, b *Bridge, n *Node) string {
	t.Helper()
	sum := sha256.New()
	must(t, contentOf(b, n, sum))
	return fmt.Sprintf("%x", sum.Sum(nil))
}

func contentOf(b *Bridge, n *Node, w io.Writer) error {
	nodes, err := b.Store.Chain(n.Path, n.Format)
	if err != nil {
		return err
	}
	return b.Store.Stream(context.Background(), nodes, w, func(int64) {})
}

// A metaNode is what the sample's maker says of a node.
type metaNode struct {
	Name, SHA256 string
	Parent       string
	Size         int64 `json:"virtual_size"`
	Physical     int64 `json:"physical_size"`
	Hidden       int
	Coalesceable bool
	Leaf         bool `json:"leaf_coalesceable"`
}

func meta(t testing.TB, dir string) []metaNode {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "meta.json"))
	must(t, err)
	var nodes []metaNode
	must(t, json.Unmarshal(data, &nodes))
	return nodes
}

func sampleNames(t testing.TB) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(samples, "*.tar.zst"))
	must(t, err)
	if len(found) < 8 {
		t.Fatalf("%d samples", len(found))
	}
	var names []string
	for _, f := range found {
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".tar.zst"))
	}
	return names
}

// Everything that the maker of the samples, and vhd-util's scan, say of them.
func TestScanOfSamples(t *testing.T) {
	for _, name := range sampleNames(t) {
		t.Run(name, func(t *testing.T) {
			dir := unpack(t, name)
			b := bridge(vfs.OS())
			r := scan(t, vfs.OS(), dir)
			for _, want := range meta(t, dir) {
				n := r.Node(want.Name)
				if n == nil || n.Err != nil {
					t.Fatalf("%s: %+v", want.Name, n)
				}
				have := metaNode{n.Name, sumOf(t, b, n), n.Parent, n.VirtualSize, n.PhysicalSize, 0, n.Coalesceable, n.LeafCoalesceable}
				if n.Hidden {
					have.Hidden = 1
				}
				if have != want {
					t.Errorf("%+v, want\n%+v", have, want)
				}
			}
		})
	}
}

// After all that can be coalesced is, every VDI reads as before, under its own name,
// and nothing is left to do.
func TestCoalesceOfSamples(t *testing.T) {
	left := map[string]int{ // nodes
		"01-linear": 1, "02-branch": 7, "03-raw-parent": 1, "04a-hidden-inner": 1, "04b-leaf-coalesce": 1,
		"04c-garbage": 1, "04d-journal-relink": 1, "05-resized": 1,
	}
	for _, name := range sampleNames(t) {
		for _, o := range []Options{{}, {Leaf: true, Garbage: true}} {
			t.Run(fmt.Sprintf("%s, %+v", name, o), func(t *testing.T) {
				dir := unpack(t, name)
				b := bridge(vfs.OS())
				r := scan(t, vfs.OS(), dir)
				p, err := r.Plan(vfs.OS(), o)
				must(t, err)
				_, failed, err := b.Run(t.Context(), r, p)
				if err != nil || len(failed) > 0 {
					t.Fatalf("%+v, %v", failed, err)
				}
				after := scan(t, vfs.OS(), dir)
				for _, m := range meta(t, dir) {
					if m.Hidden == 1 {
						continue
					}
					n := after.Node(strings.TrimSuffix(m.Name, ".vhd"))
					if n == nil || n.Err != nil || n.Hidden {
						t.Fatalf("%s: %+v", m.Name, n)
					}
					if have := sumOf(t, b, n); have != m.SHA256 {
						t.Errorf("%s reads otherwise than before", m.Name)
					}
				}
				if o.Leaf && len(after.Nodes) != left[name] {
					t.Errorf("%d nodes are left", len(after.Nodes))
				}
				if again, err := after.Plan(vfs.OS(), o); err != nil || len(again.Steps) > 0 || len(after.Journals) > 0 {
					t.Errorf("left to do: %+v, %v, %v", again, after.Journals, err)
				}
				wantClean(t, after)
			})
		}
	}
}

// wantClean checks every VHD.
func wantClean(t testing.TB, r *Repository) {
	t.Helper()
	for _, n := range r.Nodes {
		if n.Format != formatVHD {
			continue
		}
		file, err := vfs.OS().Open(n.Path, false)
		must(t, err)
		res, err := vhd.Check(file, vhd.RepairNone)
		if err != nil || len(res.Problems) > 0 {
			t.Errorf("%s: %+v, %v", n.Name, res, err)
		}
		file.Close()
	}
}

// The data of the interrupted merge was moved already: it is not moved again, and a
// journal that cannot be true is refused.
func TestAnInterruptedRelinkIsFinished(t *testing.T) {
	dir := unpack(t, "04d-journal-relink")
	r := scan(t, vfs.OS(), dir)
	p, err := r.Plan(vfs.OS(), Options{})
	must(t, err)
	if len(p.Steps) != 1 || p.Steps[0].Op != OpRelink {
		t.Fatalf("%+v", p.Steps)
	}
	base := r.Node(p.Steps[0].Into).Path
	before := fileSum(t, base)
	_, failed, err := bridge(vfs.OS()).Run(t.Context(), r, p)
	if err != nil || len(failed) > 0 {
		t.Fatalf("%+v, %v", failed, err)
	}
	if fileSum(t, base) != before {
		t.Error("the base was written to")
	}

	dir = unpack(t, "04a-hidden-inner")
	r = scan(t, vfs.OS(), dir)
	mid := slices.IndexFunc(r.Nodes, func(n *Node) bool { return n.Coalesceable })
	must(t, os.WriteFile(filepath.Join(dir, "relink_"+r.Nodes[mid].VDI), []byte("1"), 0o600))
	r = scan(t, vfs.OS(), dir)
	p, err = r.Plan(vfs.OS(), Options{})
	must(t, err)
	_, failed, err = bridge(vfs.OS()).Run(t.Context(), r, p)
	var refused *chain.RefusedError
	if err != nil || len(failed) != 1 || !errors.As(failed[0].Cause, &refused) {
		t.Errorf("a journal that is not true: %+v, %v", failed, err)
	}
}

func fileSum(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

// One orphan, one damaged and one busy node spoil their own trees only.
func TestWhatIsDamagedSpoilsItsOwnTreeOnly(t *testing.T) {
	dir := unpack(t, "04a-hidden-inner")
	for _, sample := range []string{"04b-leaf-coalesce", "02-branch", "03-raw-parent"} {
		from := unpack(t, sample)
		for _, m := range meta(t, from) {
			must(t, os.Rename(filepath.Join(from, m.Name), filepath.Join(dir, m.Name)))
		}
	}
	must(t, os.Remove(filepath.Join(dir, "base.raw"))) // c1.vhd is an orphan now
	must(t, os.Truncate(filepath.Join(dir, "8afdc9a9-3994-5a4a-a988-3d9d7eb56a7c.vhd"), 700))
	leaf := filepath.Join(dir, "7f63b87c-bb09-51bb-bca0-d578aae8ba59.vhd")
	f, err := os.OpenFile(leaf, os.O_RDWR, 0)
	must(t, err)
	info, err := f.Stat()
	must(t, err)
	_, err = f.WriteAt([]byte(strings.Repeat("\xC7", 512)), info.Size()-512)
	must(t, err)
	must(t, f.Close())
	r := scan(t, vfs.OS(), dir)
	p, err := r.Plan(vfs.OS(), Options{Leaf: true, Garbage: true})
	must(t, err)
	var said []string
	for _, s := range p.Spoiled {
		said = append(said, s.Node+": "+s.Reason)
	}
	for _, want := range []string{"c1.vhd: orphan", "8afdc9a9", "7f63b87c-bb09-51bb-bca0-d578aae8ba59.vhd: a tapdisk"} {
		if !slices.ContainsFunc(said, func(s string) bool { return strings.HasPrefix(s, want) }) {
			t.Errorf("%q is not among %q", want, said)
		}
	}
	if len(p.Steps) != 2 || p.Steps[0].Op != OpMerge || p.Steps[1].Op != OpLeaf {
		t.Errorf("%+v", p.Steps)
	}
}
