package chain_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/qcow2"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// A place is a directory with base ← top, in a store that knows all formats.
type place struct {
	*testing.T
	dir   string
	store *chain.Store
}

func newPlace(t *testing.T, base, top string) place {
	t.Helper()
	p := place{t, t.TempDir(), nil}
	p.store = &chain.Store{FS: vfs.OS(), RealPath: filepath.EvalSymlinks, Formats: []chain.Format{{
		Name: "qcow2", Probe: qcow2.Probe, Inspect: inspectQcow2,
		Open: func(f vfs.File, d chain.DataOpener) (chain.Source, error) { return qcow2.Open(f, d) },
	}, {
		Name: "vhd", Probe: vhd.Probe, Inspect: inspectVHD,
		Open: func(f vfs.File, _ chain.DataOpener) (chain.Source, error) { return vhd.Open(f) },
	}, {
		Name: "raw", Inspect: inspectRaw,
		Open: func(f vfs.File, _ chain.DataOpener) (chain.Source, error) { return chain.OpenRaw(f) },
	}}}
	p.image("base", base, "", "")
	p.image("top", top, "base", base)
	return p
}

func inspectQcow2(f vfs.File) (chain.Image, error) {
	info, err := f.Stat()
	if err != nil {
		return chain.Image{}, err
	}
	h, err := qcow2.ReadHeader(f, info.Size)
	return h.Image(), err
}

func inspectRaw(f vfs.File) (chain.Image, error) {
	r, err := chain.OpenRaw(f)
	if err != nil {
		return chain.Image{}, err
	}
	return r.Image(), nil
}

func (p place) path(name string) string { return filepath.Join(p.dir, name) }

// image makes an image of 1 MiB, with the directories above it.
func (p place) image(name, format, backing, backingFormat string) {
	p.Helper()
	must(p.T, os.MkdirAll(filepath.Dir(p.path(name)), 0o755))
	f, err := vfs.OS().Create(p.path(name), 0o600)
	must(p.T, err)
	defer f.Close()
	const size = 1 << 20
	switch format {
	case "qcow2":
		err = qcow2.Create(f, qcow2.CreateOptions{Size: size, Backing: backing, BackingFormat: backingFormat})
	case "vhd":
		o := vhd.CreateOptions{Size: size, Backing: backing, BackingFormat: backingFormat}
		if backingFormat == "vhd" {
			n, err := p.store.Node(p.path("base"), "vhd")
			must(p.T, err)
			o.ParentID = n.Image.ID
		}
		err = vhd.Create(f, o)
	default:
		err = f.Truncate(size)
	}
	must(p.T, err)
}

func (p place) file(name string, b []byte) {
	p.Helper()
	must(p.T, os.MkdirAll(filepath.Dir(p.path(name)), 0o755))
	must(p.T, os.WriteFile(p.path(name), b, 0o600))
}

func (p place) commit(r chain.CommitRequest, ignore ...string) error {
	p.Helper()
	p.store.Ignore = ignore
	n, err := p.store.Node(p.path("top"), "")
	must(p.T, err)
	r.Top, r.Format = n.Path, n.Image.Format
	_, err = p.store.PlanCommit(p.Context(), r)
	return err
}

// wants that a commit goes on (reason ""), or is refused with the reason, naming name.
func (p place) wants(what string, r chain.CommitRequest, name, reason string, ignore ...string) {
	p.Helper()
	err := p.commit(r, ignore...)
	var refusal *chain.RefusedError
	switch {
	case reason == "" && err == nil:
	case reason == "":
		p.Errorf("%s: %v", what, err)
	case !errors.As(err, &refusal) || refusal.Path != p.path(name) || !strings.Contains(err.Error(), reason):
		p.Errorf("%s: %v; want %s, %q", what, err, name, reason)
	}
}

const (
	unread  = "cannot be read"
	changes = "it builds on a layer that the merge would change"
	nowhere = "which is not here"
)

func qed(name string) []byte {
	b := append([]byte("QED\x00"), make([]byte, 200)...)
	binary.LittleEndian.PutUint32(b[16:], 1)
	binary.LittleEndian.PutUint32(b[56:], 64)
	binary.LittleEndian.PutUint32(b[60:], uint32(len(name)))
	copy(b[64:], name)
	return b
}

// What lies beside a chain, and in front of which layers it is in the way: those of
// qcow2 alone, those on a raw disk, and VHDs.
func TestOnlyWhatCouldBuildOnTheLayersIsInTheWay(t *testing.T) {
	damaged := append([]byte("conectix"), bytes.Repeat([]byte("junk"), 1000)...)
	for what, c := range map[string]struct {
		file             []byte
		qcow2, raw, vhds string
	}{
		"broken-off download":       {newQcow(3, 150000).be32(40, 1).be32(48, 1), "", "", ""},
		"cut off in the header":     {newQcow(3, 90), "", "", ""},
		"four bytes":                {[]byte("QFI\xfb"), "", "", ""},
		"unknown features":          {newQcow(3, 400).be32(72, 1<<30), "", "", ""},
		"unknown features, on base": {newQcow(3, 400).be32(72, 1<<30).named(128, "base"), "it builds on", "it builds on", "it builds on"},
		"broken off, on base":       {newQcow(3, 400).be32(40, 1).be32(48, 1).named(128, "base"), "it builds on", "it builds on", "it builds on"},
		"broken off, on another":    {newQcow(3, 400).named(128, "other"), "", "", ""},
		"broken off in the name":    {newQcow(3, 130).named(128, "base"), unread, unread, unread},
		"qcow version 1":            {newQcow(1, 100), "", "", ""},
		"qcow version 1, on base":   {newQcow(1, 100).named(48, "base"), "it builds on", "it builds on", "it builds on"},
		"QED":                       {qed(""), "", "", ""},
		"QED on base":               {qed("base"), "it builds on", "it builds on", "it builds on"},
		"QED on another":            {qed("/none"), "", "", ""},
		"VMDK":                      {append([]byte("KDMV"), damaged...), "", "", ""},
		"VHDX":                      {append([]byte("vhdxfile"), damaged...), "", "", ""},
		"damaged VHD":               {damaged, "", unread, unread},
		"node by its name":          {newQcow(3, 400).named(128, `json:{"driver":"qcow2","file":"n"}`), "not known", "not known", "not known"},
		"JSON, on base":             {newQcow(3, 400).named(128, `json:{"file":{"filename":"base"}}`), "it builds on", "it builds on", "it builds on"},
		"JSON, over the network":    {newQcow(3, 400).named(128, `json:{"driver":"nbd","host":"base"}`), "", "", ""},
		"file:, on base":            {newQcow(3, 400).named(128, "file:base"), "it builds on", "it builds on", "it builds on"},
		"over the network":          {newQcow(3, 400).named(128, "nbd:unix:/base"), "", "", ""},
	} {
		for _, l := range []struct{ base, top, want string }{
			{"qcow2", "qcow2", c.qcow2}, {"raw", "qcow2", c.raw}, {"vhd", "vhd", c.vhds},
		} {
			p := newPlace(t, l.base, l.top)
			p.file("lookalike", c.file)
			p.wants(what+" beside "+l.base, chain.CommitRequest{}, "lookalike", l.want)
			mayIgnore := l.want
			if l.want == unread || l.want == "not known" {
				mayIgnore = ""
			}
			p.wants(what+", ignored, beside "+l.base, chain.CommitRequest{}, "lookalike", mayIgnore, p.path("lookalike"))
		}
	}
}

// Clones in every direction in which they are looked for.
func TestClonesBelowTheDirectoriesAreFound(t *testing.T) {
	other, allowed := t.TempDir(), t.TempDir()
	for what, c := range map[string]struct{ name, backing string }{
		"beside":                     {"clone", "base"},
		"in a subdirectory":          {"sub/clone", "../base"},
		"two levels down":            {"sub/sub/clone", "../../base"},
		"in a hidden directory":      {".hidden/clone", "../base"},
		"below --scan":               {other + "/a/clone", ""},
		"below --allow":              {allowed + "/a/b/clone", ""},
		"by a name in JSON":          {"sub/clone", `json:{"file":{"driver":"file","filename":"../base"}}`},
		"through a link of the base": {"sub/clone", "../link"},
	} {
		p := newPlace(t, "qcow2", "qcow2")
		p.store.Allow = []string{allowed, p.path("nothing")}
		must(t, os.Symlink("base", p.path("link")))
		name, backing := c.name, c.backing
		if filepath.IsAbs(name) {
			var err error
			name, err = filepath.Rel(p.dir, name)
			must(t, err)
			backing = p.path("base")
		}
		p.image(name, "qcow2", backing, "qcow2")
		r := chain.CommitRequest{Scan: []string{other}}
		p.wants(what, r, name, changes)
		p.wants(what+", ignored", r, name, changes, p.path(name)) // it is seen to build on the base
		must(t, os.Remove(p.path(name)))
		p.wants(what+", gone", r, name, "")
	}
}

// The children of the top are told wherever they lie.
func TestChildrenInSubdirectoriesAreRelinked(t *testing.T) {
	p := newPlace(t, "qcow2", "qcow2")
	p.image("a/b/child", "qcow2", "../../top", "qcow2")
	m, err := p.store.PlanCommit(t.Context(), chain.CommitRequest{Top: p.path("top")})
	must(t, err)
	must(t, p.store.Commit(t.Context(), m, nil))
	n, err := p.store.Node(p.path("a/b/child"), "")
	if err != nil || n.Image.Backing != "../../base" {
		t.Errorf("%q, %v", n.Image.Backing, err)
	}
}

// One that comes to be while the merge is planned.
func TestACloneInASubdirectoryThatComesLaterStopsTheMerge(t *testing.T) {
	p := newPlace(t, "qcow2", "qcow2")
	m, err := p.store.PlanCommit(t.Context(), chain.CommitRequest{Top: p.path("top")})
	must(t, err)
	p.image("sub/clone", "qcow2", "../base", "qcow2")
	var refusal *chain.RefusedError
	if err := p.store.Commit(t.Context(), m, nil); !errors.As(err, &refusal) || refusal.Path != p.path("sub/clone") {
		t.Errorf("%v", err)
	}
}

// The other host has the share elsewhere.
func TestANameThatLeadsNowhereMayBeTheLayer(t *testing.T) {
	for backing, layer := range map[string]string{
		"/mnt/share/base": "base", "/mnt/share/top": "top", "../elsewhere/base": "base", "base": "base", "file:/mnt/base": "base",
		`json:{"file.filename":"/mnt/base"}`: "base", "/mnt/share/golden": "base", "/mnt/share/other": "", "nbd:host:base": "",
		"top/base": "base", // top is no directory
	} {
		p := newPlace(t, "qcow2", "qcow2")
		must(t, os.Symlink("base", p.path("golden")))
		p.file("sub/clone", newQcow(3, 400).named(128, backing))
		reason := ""
		if layer != "" {
			reason = nowhere + "; that may be " + p.path(layer)
		}
		p.wants(backing, chain.CommitRequest{}, "sub/clone", reason)
		p.wants(backing+", ignored", chain.CommitRequest{}, "", "", p.path("sub"))
	}
}

// What is below the layers does not change: nobody who builds on it is in the way.
func TestUsersOfLayersBelowAreLeftAlone(t *testing.T) {
	p := newPlace(t, "qcow2", "qcow2")
	p.image("upper", "qcow2", "top", "qcow2")
	p.image("sub/clone", "qcow2", "../base", "qcow2")
	p.file("sub/far", newQcow(3, 400).named(128, "/mnt/base"))
	if _, err := p.store.PlanCommit(t.Context(), chain.CommitRequest{Top: p.path("upper")}); err != nil {
		t.Error(err)
	}
}

// One file with two names, of which only the second leads to the base.
func TestNamesMeanOtherFilesInOtherDirectories(t *testing.T) {
	p := newPlace(t, "qcow2", "qcow2")
	p.image("a/base", "qcow2", "", "")
	p.image("a/clone", "qcow2", "base", "qcow2")
	must(t, os.Mkdir(p.path("b"), 0o755))
	must(t, os.Symlink("../base", p.path("b/base")))
	must(t, os.Link(p.path("a/clone"), p.path("b/clone")))
	p.wants("a hard link", chain.CommitRequest{}, "b/clone", changes)
}

// A directory that cannot be read, and one that is too large to be gone through.
func TestDirectoriesThatAreNotSeenAreInTheWay(t *testing.T) {
	for what, c := range map[string]struct {
		fs           vfs.FS
		path, reason string
	}{
		"unreadable": {listed{vfs.OS(), "sub", &os.PathError{Op: "open", Path: "sub", Err: os.ErrPermission}}, "sub", "could build on the layers"},
		"too large":  {crowded{vfs.OS()}, ".", "there may be images on the layers concerned that would not be found"},
	} {
		p := newPlace(t, "qcow2", "qcow2")
		p.image("sub/clone", "qcow2", "", "")
		p.store.FS = c.fs
		p.wants(what, chain.CommitRequest{}, c.path, c.reason)
		p.wants(what, chain.CommitRequest{}, c.path, "--ignore "+p.path(c.path))
		p.wants(what+", ignored", chain.CommitRequest{}, "", "", p.path(c.path))
	}
}

// listed is a file system on which one directory cannot be listed.
type listed struct {
	vfs.FS
	name string
	err  error
}

func (l listed) List(dir string, on uint64, most int) (vfs.Listing, error) {
	if filepath.Base(dir) == l.name {
		return vfs.Listing{}, l.err
	}
	return l.FS.List(dir, on, most)
}

// crowded is a file system with more in each directory than anybody wants to know.
type crowded struct{ vfs.FS }

func (c crowded) List(dir string, on uint64, most int) (vfs.Listing, error) {
	l, err := c.FS.List(dir, on, most)
	l.More = true
	return l, err
}

func inspectVHD(f vfs.File) (chain.Image, error) {
	size, err := f.Size()
	if err != nil {
		return chain.Image{}, err
	}
	i, err := vhd.ReadInfo(f, size)
	return i.Image(), err
}
