package integration_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
	"github.com/virt-rotate/virt-rotate/internal/libvirthost"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/vhdbridge/srtest"
)

// VDIs of the repository below: base ← first ← second ← disk; a snapshot was taken of
// base and one of second, both hold nothing; clone builds on first and has data.
const (
	srBase   = "00000000-0000-0000-0000-00000000000b"
	srFirst  = "00000000-0000-0000-0000-000000000001"
	srSecond = "00000000-0000-0000-0000-000000000002"
	srDisk   = "00000000-0000-0000-0000-0000000000dd"
	srSnapA  = "00000000-0000-0000-0000-00000000005a"
	srSnapB  = "00000000-0000-0000-0000-00000000005b"
	srClone  = "00000000-0000-0000-0000-0000000000cc"
)

const srSize = 8 << 20

// newRepository writes it below dir. What the disk reads as at each layer is returned.
func newRepository(t *testing.T, dir string) (base, second, disk []byte) {
	t.Helper()
	must(t, os.Mkdir(dir, 0o755))
	view := make([]byte, srSize)
	node := func(name, parent string, hidden bool, value byte, at int) []byte {
		own := make([]byte, srSize)
		if value != 0 {
			copy(own[at:], bytes.Repeat([]byte{value}, 3<<20))
			copy(view[at:], bytes.Repeat([]byte{value}, 3<<20))
		}
		srtest.Write(t, dir, srtest.Node{Name: name, Parent: parent, Size: srSize, Hidden: hidden, Own: own})
		return slices.Clone(view)
	}
	base = node(srBase, "", true, 1, 0)
	node(srSnapA, srBase, false, 0, 0)
	node(srFirst, srBase, true, 2, 1<<20)
	before := slices.Clone(view)
	node(srClone, srFirst, false, 9, 5<<20)
	view = before
	second = node(srSecond, srFirst, true, 3, 2<<20)
	node(srSnapB, srSecond, false, 0, 0)
	disk = node(srDisk, srSecond, false, 4, 4<<20)
	return base, second, disk
}

// reads has qemu-img compare an image with what it is to read as.
func (b *bed) reads(what, path string, want []byte) {
	b.t.Helper()
	raw := filepath.Join(b.t.TempDir(), "want")
	must(b.t, os.WriteFile(raw, want, 0o600))
	b.t.Log(what)
	b.qemuImg("compare", "-f", "raw", "-F", "qcow2", raw, path)
}

const keepOne = `[policy.night]
domains = ["web"]
every = "1s"
keep = { last = 1 }`

// A converted disk comes with its snapshots: virsh lists them, status counts them, a run
// drops the older one, and the guest and what is kept read as before.
func TestADomainIsDefinedOnWhatWasConverted(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	base, second, disk := newRepository(t, b.path("sr"))
	b.writePolicy(strings.Replace(keepOne, "last = 1", "last = 5", 1))
	to := b.path("images")
	r := b.rotate("sr", "convert", b.path("sr"), "--to", to, "--define", "web", "--vdi", srDisk).wantExit(t, 0)
	for _, want := range []string{"defined domain web, a plain one", "which is VDI " + srSnapA, "which is VDI " + srSnapB, srClone + " builds on the same chain"} {
		if !strings.Contains(r.Stderr, want) {
			t.Errorf("%q is missing: %v", want, r)
		}
	}
	names := b.snapshotNames("web")
	if len(names) != 2 || !strings.HasPrefix(names[0], "xenserver-") {
		t.Fatalf("snapshots %q", names)
	}
	image := func(vdi string) string { return filepath.Join(to, vdi+".qcow2") }
	if got := b.virsh("snapshot-list", "web", "--tree"); !strings.Contains(got, names[0]) || !strings.Contains(got, names[1]) {
		t.Errorf("virsh: %s", got)
	}
	overlayA, overlayB := image(srDisk+"."+names[0]), image(srDisk+"."+names[1])
	if a, b := b.overlay("web", names[0], "sda"), b.overlay("web", names[1], "sda"); a != overlayA || b != overlayB {
		t.Errorf("overlays %s and %s", a, b)
	}
	b.reads("state A", image(srBase), base)
	b.reads("state B", overlayA, second) // with what "first" has: nobody needs that alone
	b.reads("disk", overlayB, disk)
	statusKeeps(t, b, 2)

	b.writePolicy(keepOne)
	statusKeeps(t, b, 1)
	b.rotate("run", "--no-snapshot").wantExit(t, 0)
	if now := b.snapshotNames("web"); !slices.Equal(now, names[1:]) {
		t.Fatalf("snapshots %q", now)
	}
	if _, err := os.Stat(overlayA); err == nil {
		t.Error("the merged layer is still there")
	}
	b.reads("state B after the merge", image(srBase), second)
	b.reads("disk after the merge", overlayB, disk)
	b.virsh("snapshot-dumpxml", "web", names[1])
	b.rotate("doctor", "web").wantExit(t, 0)

	// A guest that runs is rotated on: a snapshot, and the last one of XenServer goes.
	b.virsh("start", "web")
	b.rotate("run", "--now").wantExit(t, 0)
	if now := b.snapshotNames("web"); len(now) != 1 || !strings.HasPrefix(now[0], "night-") {
		t.Errorf("snapshots %q", now)
	}
	b.reads("the state of the new one", image(srBase), disk)
}

// statusKeeps wants status to say that so many of the snapshots are kept.
func statusKeeps(t *testing.T, b *bed, want int) {
	t.Helper()
	var out struct {
		Domains []struct {
			Snapshots []struct{ Ours, Keep bool }
			Refused   []json.RawMessage
		}
	}
	b.rotate("status", "--output=json").wantExit(t, 0).decode(t, &out)
	keep := 0
	for _, s := range out.Domains[0].Snapshots {
		if !s.Ours {
			t.Error("a snapshot is not ours")
		}
		if s.Keep {
			keep++
		}
	}
	if keep != want || len(out.Domains[0].Refused) > 0 {
		t.Errorf("%d are kept, %+v", keep, out)
	}
}

// A domain of that name keeps all but its disk; what cannot be is said before anything
// is converted.
func TestTheDisksOfADomainAreReplaced(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, _, disk := newRepository(t, b.path("sr"))
	b.define(guest.Spec{Name: "g", Disks: make([]guest.DiskSpec, 2), MemoryMiB: 24})
	convert := func(to string, args ...string) result {
		return b.rotate(append([]string{"sr", "convert", b.path("sr"), "--to", b.path(to)}, args...)...)
	}
	uuid := strings.TrimSpace(b.virsh("domuuid", "g"))
	r := convert("images", "--define", "g", "--vdi", "vdb="+srDisk, "--policy-name", "night").wantExit(t, 0)
	if !strings.Contains(r.Stderr, "own disks vda stay") {
		t.Errorf("%v", r)
	}
	names := b.snapshotNames("g")
	if len(names) != 2 || !strings.HasPrefix(names[0], "night-") || b.overlay("g", names[1], "vdb") != b.disk("g", "vdb").Path {
		t.Errorf("snapshots %q", names)
	}
	b.reads("the disk", b.disk("g", "vdb").Path, disk)
	if text := b.virsh("dumpxml", "g"); !strings.Contains(text, uuid) || !strings.Contains(text, ">24576<") {
		t.Errorf("%s", text)
	}

	file := b.path("new.xml")
	text := strings.Replace(b.virsh("dumpxml", "g"), "<name>g<", "<name>h<", 1)
	must(t, os.WriteFile(file, []byte(strings.Replace(text, "<uuid>"+uuid+"</uuid>", "", 1)), 0o600))
	r = convert("print", "--domain-xml", file, "--vdi", srDisk).wantExit(t, 0)
	if !strings.HasPrefix(r.Stdout, "<domain") || !strings.Contains(r.Stdout, b.path("print", srDisk+".qcow2")) {
		t.Errorf("%v", r)
	}
	convert("from-file", "--domain-xml", file, "--define", "k", "--vdi", srDisk, "--no-snapshots").wantExit(t, 0)
	if names := b.snapshotNames("k"); len(names) != 0 || b.disk("k", "vda").Path != b.path("from-file", srDisk+".qcow2") {
		t.Errorf("snapshots %q", names)
	}
	r = convert("dry", "--define", "new", "--vdi", srDisk, "--dry-run").wantExit(t, 0)
	if !strings.Contains(r.Stderr, "would define domain new") || strings.Contains(b.virsh("list", "--all"), "new") {
		t.Errorf("%v", r)
	}

	b.virsh("start", "k")
	for _, c := range []struct {
		want string
		exit int
		args []string
	}{
		{"it has snapshots", 4, []string{"--define", "g", "--vdi", srDisk}},
		{"it runs", 4, []string{"--define", "k", "--vdi", srDisk}},
		{"no writable disk vdz", 2, []string{"--define", "z", "--domain-xml", file, "--vdi", "vdz=" + srDisk}},
		{"is none's overlay", 4, []string{"--define", "z", "--vdi", srDisk, "--keep-all"}},
		{"want --vdi", 2, []string{"--define", "z"}},
		{"no such VDI", 2, []string{"--define", "z", "--vdi", srDisk + "0"}},
		{"each disk once", 2, []string{"--define", "z", "--vdi", srDisk, "--vdi", srDisk}},
		{"no targets to choose", 2, []string{"--define", "z", "--vdi", "vda=" + srDisk}},
		{"do not go with --flatten", 2, []string{"--define", "z", "--vdi", srDisk, "--flatten"}},
		{"--policy-name", 2, []string{"--define", "z", "--vdi", srDisk, "--policy-name", "a/b"}},
		{"go with --define", 2, []string{"--no-snapshots", "--vdi", srDisk}},
	} {
		r := convert("no", c.args...)
		if _, err := os.Stat(b.path("no")); r.Exit != c.exit || !strings.Contains(r.Stderr, c.want) || !os.IsNotExist(err) {
			t.Errorf("%q: %v, %v", c.args, r, err)
		}
	}
}

// Which snapshots of several disks belong together is not known: none is defined.
func TestSeveralDisksComeWithoutSnapshots(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, _, disk := newRepository(t, b.path("sr"))
	r := b.rotate("sr", "convert", b.path("sr"), "--to", b.path("images"), "--define", "two", "--vdi", srDisk, "--vdi", srClone).wantExit(t, 0)
	if !strings.Contains(r.Stderr, "2 snapshots left out") || len(b.snapshotNames("two")) != 0 {
		t.Errorf("%v", r)
	}
	b.reads("the disk", b.disk("two", "sda").Path, disk)
	if path := b.disk("two", "sdb").Path; path != b.path("images", srClone+".qcow2") {
		t.Error(path)
	}
}

// A domain whose snapshots cannot all be defined is not defined either.
func TestADefinitionThatFailsIsTakenBack(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.define(guest.Spec{Name: "g"})
	before := b.virsh("dumpxml", "g")
	h, err := libvirthost.Open(b.host.URI())
	must(t, err)
	defer h.Close()
	active := host.Layer{Path: b.disk("g", "vda").Path, Kind: "file", Format: "qcow2"}
	snap := func(name string) libvirthost.NewSnapshot {
		return libvirthost.NewSnapshot{Name: name, Time: time.Now(), Disks: []libvirthost.NewState{{Overlay: b.path("other.qcow2"), State: []host.Layer{active}}}}
	}
	active.Path = b.path("other.qcow2")
	for _, name := range []string{"g", "new"} {
		text, err := h.PlainDomain(name, 1)
		must(t, err)
		if name == "g" {
			text = before
		}
		n := libvirthost.NewDomain{Name: name, XML: text, Disks: []libvirthost.NewDisk{{Active: active}},
			Snapshots: []libvirthost.NewSnapshot{snap("fine"), snap("not/fine")}}
		if _, err := h.Define(t.Context(), n); err == nil || !strings.Contains(err.Error(), "not/fine") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after := b.virsh("dumpxml", "g"); after != before || len(b.snapshotNames("g")) != 0 {
		t.Errorf("%s", after)
	}
	if list := b.virsh("list", "--all", "--name"); strings.Contains(list, "new") {
		t.Error(list)
	}
}

// Snapshots that came along are as good as those that virt-rotate took: the guest can go
// back to them, and they can be taken out.
func TestAGuestGoesBackToAConvertedSnapshot(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	base, second, disk := newRepository(t, b.path("sr"))
	b.writePolicy(strings.Replace(keepOne, "last = 1", "last = 5", 1))
	b.rotate("sr", "convert", b.path("sr"), "--to", b.path("images"), "--define", "web", "--vdi", srDisk).wantExit(t, 0)
	names := b.snapshotNames("web")
	before := b.disk("web", "sda").Path
	b.rotate("export", "web", names[1], "-o", b.path("out.qcow2"), "-O", "qcow2").wantExit(t, 0)
	b.reads("what was taken out", b.path("out.qcow2"), second)
	b.rotate("restore", "web", names[0]).wantExit(t, 0)
	b.reads("the guest", b.disk("web", "sda").Path, base)
	b.reads("what it was", before, disk)
	statusKeeps(t, b, len(b.snapshotNames("web")))
}

// A guest boots from what was a chain of VHDs: of its boot disk, the base has something
// else in the sectors that it boots from.
func TestAGuestBootsFromAConvertedChain(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.define(guest.Spec{Name: "g1"})
	boot, err := os.ReadFile(b.path("boot/g1.boot"))
	must(t, err)
	must(t, os.Mkdir(b.path("sr"), 0o755))
	old := bytes.Repeat([]byte{0xF4}, srSize) // it would halt
	srtest.Write(t, b.path("sr"), srtest.Node{Name: srBase, Size: srSize, Hidden: true, Own: old})
	own := make([]byte, srSize)
	copy(own, boot)
	srtest.Write(t, b.path("sr"), srtest.Node{Name: srDisk, Parent: srBase, Size: srSize, Own: own})
	b.rotate("sr", "convert", b.path("sr"), "--to", b.path("converted"), "--keep-all").wantExit(t, 0)
	converted := b.path("converted", srDisk+".qcow2")
	if chain, err := guest.Chain(t.Context(), converted, "qcow2"); err != nil || len(chain) != 2 {
		t.Fatalf("%v, %v", chain, err)
	}
	xml := b.virsh("dumpxml", "--inactive", "g1")
	raw := regexp.MustCompile(`(?s)type='raw'([^>]*)/>(\s*)<source file='` + regexp.QuoteMeta(b.path("boot/g1.boot")) + `'`)
	changed := raw.ReplaceAllString(xml, "type='qcow2'$1/>$2<source file='"+converted+"'")
	if changed == xml {
		t.Fatalf("no boot disk in %s", xml)
	}
	file := b.path("g1.xml")
	must(t, os.WriteFile(file, []byte(changed), 0o600))
	b.virsh("define", file)
	must(t, os.Rename(b.path("boot/g1.boot"), b.path("boot/g1.boot.away")))
	b.start("g1")
	b.waitWrites("g1", 50)
	b.checkGuest("g1")
}
