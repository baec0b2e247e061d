package bundle

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// placing plans to place the export in dir.
func placing(t *testing.T, dir, to string) (*Placing, error) {
	t.Helper()
	b, err := Open(dir)
	must(t, err)
	p := &Placing{Converter: converter(), Bundle: b, Dir: to, Domain: "web", UUID: b.UUID, At: func(string) {}}
	if _, err := p.Plan(); err != nil {
		return nil, err
	}
	return p, p.Measure(t.Context())
}

func names(t *testing.T, dir string) (found []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		found = append(found, e.Name())
	}
	return found
}

func TestPlacingIsAllOrNothing(t *testing.T) {
	d := newDisk(t)
	dir := d.export(1, "two", d.export(0, "one", ""))
	to := t.TempDir()
	fails := errors.New("no")
	p, err := placing(t, dir, to)
	must(t, err)
	err = p.Place(t.Context(), func() error {
		if got := names(t, to); len(got) != 2 || got[1] != "web-vda.qcow2" {
			t.Errorf("when the guest is defined there are %q", got)
		}
		return fails
	})
	if !errors.Is(err, fails) || len(names(t, to)) != 0 {
		t.Errorf("%v, and there are %q", err, names(t, to))
	}
	p, err = placing(t, dir, to)
	must(t, err)
	must(t, p.Place(t.Context(), func() error { return nil }))
	n, err := p.Store.Node(filepath.Join(to, "web-vda.qcow2"), "qcow2")
	must(t, err)
	if sum, err := contentSum(t.Context(), p.Store, []chain.Node{n}, func(int64) {}); err != nil || sum != p.Bundle.Disk("vda").ContentSHA256 || n.Image.Backing != "" {
		t.Errorf("%s, %v: %+v", sum, err, n)
	}
	if got := names(t, to); len(got) != 1 {
		t.Errorf("there are %q", got)
	}
	var refused *chain.RefusedError
	if _, err := placing(t, dir, to); !errors.As(err, &refused) {
		t.Errorf("over an image that is there: %v", err)
	}
}

func TestWhatIsNotWhatTheManifestSaysIsNotPlaced(t *testing.T) {
	d := newDisk(t)
	dir, to := d.export(0, "one", ""), t.TempDir()
	d.rewrite(dir, func(m *Manifest) { m.Disks[0].ContentSHA256 = strings.Repeat("0", 64) })
	p, err := placing(t, dir, to)
	must(t, err)
	err = p.Place(t.Context(), func() error {
		t.Error("the guest is defined")
		return nil
	})
	var bad *DamagedError
	if !errors.As(err, &bad) || len(names(t, to)) != 0 {
		t.Errorf("%v, and there are %q", err, names(t, to))
	}
}

// Where nobody knows whether the guest was defined, its images stay, with a note of whose they are.
func TestImagesOfAGuestThatMayBeDefinedStay(t *testing.T) {
	d := newDisk(t)
	dir, to := d.export(0, "one", ""), t.TempDir()
	p, err := placing(t, dir, to)
	must(t, err)
	if err := p.Place(t.Context(), func() error { return ErrMaybeDefined }); !errors.Is(err, ErrMaybeDefined) {
		t.Error(err)
	}
	if left, err := Leftovers(to); err != nil || len(left) != 0 {
		t.Errorf("it is left while its maker lives: %v, %v", left, err)
	}
	entries := names(t, to)
	if len(entries) != 2 {
		t.Fatalf("there are %q", entries)
	}
	note, err := readNote(filepath.Join(to, entries[0]))
	must(t, err)
	l := Leftover{Path: filepath.Join(to, entries[0]), Placed: note}
	if images := l.Images(); note.Domain != "web" || len(images) != 1 {
		t.Errorf("%+v, %q", note, images)
	}
	must(t, os.WriteFile(filepath.Join(to, "other"), nil, 0o600))
	must(t, os.Rename(filepath.Join(to, "other"), filepath.Join(to, "web-vda.qcow2")))
	if images := l.Images(); len(images) != 0 {
		t.Errorf("another file is taken for the image: %q", images)
	}
}
