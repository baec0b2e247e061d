package integration_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
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
		writeVHD(t, dir, name, parent, hidden, own)
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

func writeVHD(t *testing.T, dir, name, parent string, hidden bool, own []byte) {
	t.Helper()
	o := vhd.CreateOptions{Size: srSize, UUID: vhd.NewUUID()}
	if parent != "" {
		b, err := os.ReadFile(filepath.Join(dir, parent+".vhd"))
		must(t, err)
		info, err := vhd.ReadInfo(bytes.NewReader(b), int64(len(b)))
		must(t, err)
		o.Backing, o.BackingFormat, o.ParentID = parent+".vhd", "vhd", info.UUID.String()
	}
	f, err := vfs.OS().Create(filepath.Join(dir, name+".vhd"), 0o600)
	must(t, err)
	must(t, vhd.Create(f, o))
	image, err := vhd.Open(f)
	must(t, err)
	sink, err := chain.NewSink(image.(chain.Target))
	must(t, err)
	must(t, sink.Write(0, own))
	must(t, sink.Flush())
	if hidden {
		must(t, vhdbridge.HideVHD(f, true))
	}
	must(t, image.Close())
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
