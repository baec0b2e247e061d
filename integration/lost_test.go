package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// QEMU or libvirtd can die just when a merge is finished, and libvirt come back
// with the old chain. Here that is brought about by hand, while the guest is off: layer and
// header are merged, XML and intent are as before the merge.
func TestAMergeWhoseEndLibvirtMissedIsDoneAgain(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1"})
	b.rotations("g1", 3)
	names := b.snapshotNames("g1")
	before := b.keptStates("g1")
	chain := b.chain("g1", "vda") // active first
	base, gone, above := chain[3].Path, chain[2].Path, chain[1].Path
	b.destroy("g1")
	b.virsh("snapshot-delete", "g1", names[0], "--metadata")
	b.qemuImg("commit", "-q", "-f", "qcow2", "-d", gone)
	b.qemuImg("rebase", "-u", "-f", "qcow2", "-b", base, "-F", "qcow2", above)
	b.writeIntent("g1", names[0], base, gone)

	b.rotate("run", "--no-snapshot").wantExit(t, 0)
	if _, err := os.Stat(gone); err != nil {
		t.Errorf("the layer that the configuration names: %v", err)
	}
	b.start("g1")
	b.rotate("run", "--no-snapshot").wantExit(t, 0)
	if _, err := os.Stat(gone); !os.IsNotExist(err) {
		t.Errorf("%s: %v, want it gone", gone, err)
	}
	b.wantKept("g1", before, names[1], names[2])
	b.rotations("g1", 2)
	b.wantInOrder("g1", 4)
}

// writeIntent writes what a run has written before it merges gone into base.
func (b *bed) writeIntent(dom, drop, base, gone string) {
	b.t.Helper()
	info, err := os.Stat(gone)
	must(b.t, err)
	st := info.Sys().(*syscall.Stat_t)
	uuid := strings.TrimSpace(b.virsh("domuuid", dom))
	text := fmt.Sprintf(`{"version":1,"domain":%q,"uuid":%q,"started":"2026-01-01T00:00:00Z","drops":[%q],
"merges":[{"disk":"vda","base":%q,"gone":[{"path":%q,"id":{"dev":%d,"ino":%d}}]}]}`, dom, uuid, drop, base, gone, st.Dev, st.Ino)
	dir := b.path("state", "intents")
	must(b.t, os.MkdirAll(dir, 0o700))
	must(b.t, os.WriteFile(filepath.Join(dir, uuid+".json"), []byte(text), 0o600))
}
