package chaintest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/qcow2"
)

// A den is a directory with images that name others as they like.
type den struct {
	t   *testing.T
	dir string
}

func (d den) path(name string) string { return filepath.Join(d.dir, name) }

func (d den) image(name, backing, format string) {
	d.t.Helper()
	f, err := vfs.OS().Create(d.path(name), 0o600)
	if err == nil {
		err = errors.Join(qcow2.Create(f, qcow2.CreateOptions{Size: 1 << 20, Backing: backing, BackingFormat: format}), f.Close())
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d den) store(allow ...string) *chain.Store {
	b := bench{fs: vfs.OS(), kits: append(kits()[:1], Raw())}
	s := b.store()
	s.Allow, s.RealPath = allow, filepath.EvalSymlinks
	return s
}

// contents is every byte in the directory.
func (d den) contents() string {
	d.t.Helper()
	var all bytes.Buffer
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(d.path(e.Name()))
		fmt.Fprintf(&all, "%s %v %x\n", e.Name(), err != nil, b)
	}
	return all.String()
}

func TestBackingNamesThatLeadElsewhereAreRefused(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, backing := range map[string]string{
		"a file outside":       outside,
		"a link to it":         "link",
		"up and out":           "../../../../../../../etc/passwd",
		"a file of the kernel": "/proc/self/environ",
		"a device":             "/dev/zero",
		"a JSON description":   `json:{"driver":"raw","file":{"driver":"file","filename":"` + outside + `"}}`,
		"a network block":      "nbd://127.0.0.1/x",
		"a web server":         "http://127.0.0.1/x",
		"a descriptor":         "fd:3",
		"a protocol":           "file:" + outside,
		"itself":               "top",
		"a directory":          ".",
	} {
		t.Run(name, func(t *testing.T) {
			d := den{t, t.TempDir()}
			if err := os.Symlink(outside, d.path("link")); err != nil {
				t.Fatal(err)
			}
			d.image("top", backing, "raw")
			before := d.contents()
			d.refuses(d.path("top"))
			if after := d.contents(); after != before {
				t.Error("something has changed")
			}
		})
	}
}

// refuses wants every command to refuse the chain of the image.
func (d den) refuses(image string) {
	d.t.Helper()
	ctx, s := d.t.Context(), d.store()
	_, read := s.Chain(image, "")
	_, committed := s.PlanCommit(ctx, chain.CommitRequest{Top: image})
	_, pulled := s.PlanPull(ctx, image, "", "")
	_, rebased := s.PlanRebase(ctx, image, "", "", "")
	for what, err := range map[string]error{"read": read, "commit": committed, "pull": pulled, "rebase": rebased} {
		var refusal *chain.RefusedError
		var kind *vfs.KindError
		if !errors.As(err, &refusal) && !errors.As(err, &kind) {
			d.t.Errorf("%s: %v", what, err)
		} else if !strings.Contains(err.Error(), d.dir) {
			d.t.Errorf("%s: %v does not name the file", what, err)
		}
	}
}

func TestAnAllowedDirectoryMayHoldTheBase(t *testing.T) {
	other := den{t, t.TempDir()}
	other.image("base", "", "")
	d := den{t, t.TempDir()}
	d.image("top", other.path("base"), "qcow2")
	d.refuses(d.path("top"))
	if _, err := d.store(other.dir).PlanCommit(t.Context(), chain.CommitRequest{Top: d.path("top")}); err != nil {
		t.Error(err)
	}
}

func TestLoopsAndEndlessChainsAreRefused(t *testing.T) {
	d := den{t, t.TempDir()}
	d.image("a", "b", "qcow2")
	d.image("b", "c", "qcow2")
	d.image("c", "a", "qcow2")
	d.refuses(d.path("a"))
	deep := den{t, t.TempDir()}
	deep.image("0", "", "")
	for i := 1; i <= 300; i++ {
		deep.image(fmt.Sprint(i), fmt.Sprint(i-1), "qcow2")
	}
	deep.refuses(deep.path("300"))
	if nodes, err := deep.store().Chain(deep.path("150"), ""); err != nil || len(nodes) != 151 {
		t.Errorf("150 levels: %d, %v", len(nodes), err)
	}
}

func TestAFormatIsNeverGuessed(t *testing.T) {
	d := den{t, t.TempDir()}
	d.image("guest", "", "") // a guest wrote a qcow2 header into its raw disk
	d.image("top", "guest", "raw")
	nodes, err := d.store().Chain(d.path("top"), "")
	if err != nil || nodes[0].Image.Format != "raw" || nodes[0].Image.VirtualSize == 1<<20 {
		t.Errorf("%+v, %v", nodes, err)
	}
	d.image("vm", "guest", "vmdk")
	d.refuses(d.path("vm"))
	if _, err := d.store().Chain(d.path("vm"), ""); !strings.Contains(err.Error(), `"vmdk"`) {
		t.Errorf("%v does not name the format", err)
	}
	if err := os.WriteFile(d.path("disk"), make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	var unknown *chain.UnknownFormatError
	if _, err := d.store().Chain(d.path("disk"), ""); !errors.As(err, &unknown) {
		t.Errorf("a raw disk without a format: %v", err)
	}
}

// What other images build on is not written to, whatever they are called.
func TestALayerThatAnotherImageBuildsOnIsNotMergedInto(t *testing.T) {
	for name, c := range map[string]struct{ on, file string }{
		"the base":            {"base", "other"},
		"a layer between":     {"a", "other.qcow2"},
		"the base, by a link": {"link", "other"},
		"hidden":              {"base", ".other"},
	} {
		t.Run(name, func(t *testing.T) {
			d := den{t, t.TempDir()}
			d.image("base", "", "")
			d.image("a", "base", "qcow2")
			d.image("b", "a", "qcow2")
			if err := os.Symlink("base", d.path("link")); err != nil {
				t.Fatal(err)
			}
			d.image(c.file, c.on, "qcow2")
			before := d.contents()
			_, err := d.store().PlanCommit(t.Context(), chain.CommitRequest{Top: d.path("b"), Base: d.path("base")})
			var refusal *chain.RefusedError
			if !errors.As(err, &refusal) || refusal.Path != d.path(c.file) {
				t.Errorf("%v", err)
			}
			if d.contents() != before {
				t.Error("something has changed")
			}
		})
	}
}

func TestAnUnreadableNeighbourStopsAMerge(t *testing.T) {
	d := den{t, t.TempDir()}
	d.image("base", "", "")
	d.image("a", "base", "qcow2")
	d.image("broken", "b", "qcow2")
	header, err := os.ReadFile(d.path("broken"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.path("broken"), int64(binary.BigEndian.Uint64(header[8:]))); err != nil { // before the name
		t.Fatal(err)
	}
	_, err = d.store().PlanCommit(t.Context(), chain.CommitRequest{Top: d.path("a")})
	var refusal *chain.RefusedError
	if !errors.As(err, &refusal) || refusal.Path != d.path("broken") {
		t.Errorf("%v", err)
	}
}
