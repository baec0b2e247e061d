package vhd_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/qcow2"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd/vhdtest"
)

func newStore() *chain.Store {
	return &chain.Store{FS: vfs.OS(), RealPath: filepath.EvalSymlinks, Formats: []chain.Format{{
		Name: "vhd", Probe: vhd.Probe,
		Open:    func(f vfs.File, _ chain.DataOpener) (chain.Source, error) { return vhd.Open(f) },
		Inspect: inspectVHD,
	}, {
		Name: "raw",
		Open: func(f vfs.File, _ chain.DataOpener) (chain.Source, error) { return chain.OpenRaw(f) },
		Inspect: func(f vfs.File) (chain.Image, error) {
			r, err := chain.OpenRaw(f)
			if err != nil {
				return chain.Image{}, err
			}
			return r.Image(), nil
		},
	}, {
		Name: "qcow2", Probe: qcow2.Probe,
		Open: func(f vfs.File, data chain.DataOpener) (chain.Source, error) { return qcow2.Open(f, data) },
		Inspect: func(f vfs.File) (chain.Image, error) {
			m, err := qcow2.Open(f, nil)
			if err != nil {
				return chain.Image{}, err
			}
			return m.Image(), nil
		},
	}}}
}

// formatOf names raw disks: they are never probed.
func formatOf(path string) string {
	if strings.HasSuffix(path, ".raw") {
		return "raw"
	}
	return ""
}

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// engineView is what a guest reads, as the engine sees it.
func engineView(t *testing.T, path string) []byte {
	t.Helper()
	s := newStore()
	nodes, err := s.Chain(path, formatOf(path))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := s.Stream(t.Context(), nodes, &b, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// reads wants both readers to see what the sum says.
func reads(t *testing.T, path string, want vhdtest.Sum) {
	t.Helper()
	if have := engineView(t, path); sha(have) != want.SHA256 || int64(len(have)) != want.Size {
		t.Errorf("the engine reads %d bytes of %s, %s, want %d, %s", len(have), path, sha(have), want.Size, want.SHA256)
	}
	have, err := vhdtest.View(path)
	if err != nil {
		t.Error(err)
	} else if sha(have) != want.SHA256 {
		t.Errorf("the other reader reads %d bytes of %s, %s, want %d, %s", len(have), path, sha(have), want.Size, want.SHA256)
	}
}

// sound wants nothing wrong with the image at path.
func sound(t *testing.T, path string) {
	t.Helper()
	if formatOf(path) == "raw" {
		return
	}
	f, err := vfs.OS().Open(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if r, err := vhd.Check(f, vhd.RepairNone); err != nil || r.ProblemCount != 0 {
		t.Errorf("%s: %v, %v", path, r.Problems, err)
	}
}

func TestSamplesReadAsXenServerReadsThem(t *testing.T) {
	images := 0
	for _, name := range vhdtest.Samples(t) {
		dir := vhdtest.Unpack(t, name)
		for _, sum := range vhdtest.Sums(t, dir) {
			images++
			reads(t, filepath.Join(dir, sum.Name), sum)
			sound(t, filepath.Join(dir, sum.Name))
		}
	}
	if images != 34 {
		t.Errorf("%d images", images)
	}
}

func TestInfoSaysWhatXenServerWrote(t *testing.T) {
	for _, name := range vhdtest.Samples(t) {
		dir := vhdtest.Unpack(t, name)
		b, err := os.ReadFile(filepath.Join(dir, "meta.json"))
		if err != nil {
			t.Fatal(err)
		}
		var nodes []struct {
			Name, Parent, UUID string
			Size               int64 `json:"virtual_size"`
			Hidden             int
			Raw                bool
			Type               vhd.Type
			Allocated          int64 `json:"allocated_blocks"`
			Entries            int64 `json:"max_bat"`
		}
		if err := json.Unmarshal(b, &nodes); err != nil || len(nodes) == 0 {
			t.Fatal(err)
		}
		for _, n := range nodes {
			if n.Raw {
				continue
			}
			f, err := os.ReadFile(filepath.Join(dir, n.Name))
			if err != nil {
				t.Fatal(err)
			}
			i, err := vhd.ReadInfo(bytes.NewReader(f), int64(len(f)))
			if err != nil {
				t.Fatal(err)
			}
			blocks, err := vhd.ReadAllocated(bytes.NewReader(f), int64(len(f)))
			if i.UUID.String() != n.UUID || i.ParentPath != n.Parent || i.Size != n.Size || i.Hidden != (n.Hidden == 1) ||
				i.Type != n.Type || i.Entries != n.Entries || blocks != n.Allocated || err != nil || !i.EndFooter || i.InUse {
				t.Errorf("%s/%s: %+v, %d blocks, %v; want %+v", name, n.Name, i, blocks, err, n)
			}
		}
	}
}

// merge commits top into base and wants all that stays to read as before.
func merge(t *testing.T, dir, top, base string, gone ...string) {
	t.Helper()
	s := newStore()
	m, err := s.PlanCommit(t.Context(), chain.CommitRequest{Top: filepath.Join(dir, top), Base: filepath.Join(dir, base)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), m, nil); err != nil {
		t.Fatal(err)
	}
	var becomes vhdtest.Sum
	for _, sum := range vhdtest.Sums(t, dir) {
		if sum.Name == top {
			becomes = sum
		}
	}
	left := 0
	for _, sum := range vhdtest.Sums(t, dir) {
		path := filepath.Join(dir, sum.Name)
		switch _, err := os.Stat(path); {
		case os.IsNotExist(err):
			gone = append(gone, sum.Name)
			continue
		case sum.Name == base:
			sum = becomes
		}
		left++
		reads(t, path, sum)
		sound(t, path)
	}
	if left == 0 {
		t.Error("nothing is left")
	}
}

func TestMergesOfSamplesLeaveWhatGuestsRead(t *testing.T) {
	for _, c := range []struct{ sample, top, base string }{
		{"01-linear", "c1.vhd", "base.vhd"},
		{"01-linear", "c4.vhd", "c2.vhd"},
		{"01-linear", "c5.vhd", "base.vhd"},
		{"03-raw-parent", "c1.vhd", "base.raw"},
		{"03-raw-parent", "c2.vhd", "c1.vhd"},
		{"03-raw-parent", "c2.vhd", "base.raw"},
		{"04a-hidden-inner", "f649ce62-5d7c-5a30-ac9b-74dfe6192712.vhd", "343a4a50-92cc-57e8-bfea-4ba9a0050b63.vhd"},
		{"04b-leaf-coalesce", "acea24c5-7f51-5e67-97a6-76f26e1a1585.vhd", "8afdc9a9-3994-5a4a-a988-3d9d7eb56a7c.vhd"},
		{"04d-journal-relink", "f649ce62-5d7c-5a30-ac9b-74dfe6192712.vhd", "343a4a50-92cc-57e8-bfea-4ba9a0050b63.vhd"},
		{"05-resized", "c1.vhd", "base.vhd"}, // the parent grows
		{"05-resized", "c2.vhd", "base.vhd"},
		{"05-resized", "c2.vhd", "c1.vhd"},
	} {
		t.Run(c.sample+" "+c.top, func(t *testing.T) { merge(t, vhdtest.Unpack(t, c.sample), c.top, c.base) })
	}
}

func TestPullsOfSamplesLeaveWhatGuestsRead(t *testing.T) {
	for _, name := range vhdtest.Samples(t) {
		dir := vhdtest.Unpack(t, name)
		sums := vhdtest.Sums(t, dir)
		for _, sum := range sums {
			s := newStore()
			path := filepath.Join(dir, sum.Name)
			if nodes, err := s.Chain(path, formatOf(path)); err != nil || len(nodes) == 1 {
				continue
			}
			p, err := s.PlanPull(t.Context(), path, "", "")
			if err == nil {
				err = s.Pull(t.Context(), p, nil)
			}
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if nodes, err := s.Chain(path, ""); err != nil || len(nodes) != 1 {
				t.Errorf("%s: %d layers, %v", path, len(nodes), err)
			}
			sound(t, path)
		}
		for _, sum := range sums {
			reads(t, filepath.Join(dir, sum.Name), sum)
		}
	}
}

// image makes a VHD in dir on a parent, named as it is.
func image(t *testing.T, dir, name, parent string, id, parentID vhd.UUID) {
	t.Helper()
	f, err := vfs.OS().Create(filepath.Join(dir, name), 0o600)
	if err == nil {
		o := vhd.CreateOptions{Size: 1 << 20, UUID: id, Backing: parent}
		if parent != "" {
			o.BackingFormat, o.ParentID = "vhd", parentID.String()
		}
		err = errors.Join(vhd.Create(f, o), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestParentsElsewhereAreRefusedUnlessTheyAreAllowed(t *testing.T) {
	root := t.TempDir()
	for _, d := range []string{"golden", "vms", "secret"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	vms := filepath.Join(root, "vms")
	image(t, filepath.Join(root, "golden"), "base.vhd", "", vhd.UUID{1}, vhd.UUID{})
	image(t, vms, "top.vhd", "../golden/base.vhd", vhd.UUID{2}, vhd.UUID{1})
	image(t, vms, "absolute.vhd", filepath.Join(root, "golden/base.vhd"), vhd.UUID{3}, vhd.UUID{1})
	image(t, vms, "linked.vhd", "link", vhd.UUID{4}, vhd.UUID{1})
	image(t, vms, "other.vhd", "../golden/base.vhd", vhd.UUID{5}, vhd.UUID{9})
	image(t, vms, "a.vhd", "b.vhd", vhd.UUID{6}, vhd.UUID{7})
	image(t, vms, "b.vhd", "a.vhd", vhd.UUID{7}, vhd.UUID{6})
	image(t, vms, "self.vhd", "self.vhd", vhd.UUID{8}, vhd.UUID{8})
	if err := os.Symlink("../golden/base.vhd", filepath.Join(vms, "link")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ denied, allowed string }{
		"top.vhd":      {"outside the directories", ""},
		"absolute.vhd": {"outside the directories", ""},
		"linked.vhd":   {"outside the directories", ""},
		"other.vhd":    {"outside the directories", "another one"},
		"a.vhd":        {"loop", "loop"},
		"self.vhd":     {"loop", "loop"},
	} {
		for _, allow := range [][]string{{filepath.Join(root, "secret")}, {filepath.Join(root, "golden")}} {
			s, says := newStore(), c.denied
			if strings.HasSuffix(allow[0], "golden") {
				says = c.allowed
			}
			s.Allow = allow
			_, err := s.Chain(filepath.Join(vms, name), "")
			var refusal *chain.RefusedError
			if says == "" && err != nil || says != "" && (!errors.As(err, &refusal) || !strings.Contains(err.Error(), says)) {
				t.Errorf("%s with %v: %v, want %q", name, allow, err, says)
			}
		}
	}
}

func inspectVHD(f vfs.File) (chain.Image, error) {
	size, err := f.Size()
	if err != nil {
		return chain.Image{}, err
	}
	i, err := vhd.ReadInfo(f, size)
	return i.Image(), err
}
