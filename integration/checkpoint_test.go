package integration_test

import (
	"os"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// Backup programs read what has changed since a checkpoint from dirty bitmaps
// in the images. Rotation must carry those along.
func TestABackupSinceACheckpointIsCompleteAfterRotations(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1"})
	b.waitWrites("g1", 60)
	b.virsh("suspend", "g1")
	b.virsh("checkpoint-create-as", "g1", "c1")
	b.qemuImg("convert", "-U", "-f", "qcow2", "-O", "raw", b.disk("g1", "vda").Path, b.path("then.raw"))
	b.virsh("resume", "g1")

	b.rotations("g1", 6)

	b.virsh("suspend", "g1")
	active := b.disk("g1", "vda").Path
	must(t, os.WriteFile(b.path("backup.xml"), []byte(`<domainbackup mode="push"><incremental>c1</incremental>
<disks><disk name="vda" backup="yes" type="file"><target file="`+b.path("since.qcow2")+`"/><driver type="qcow2"/></disk>
<disk name="vdz" backup="no"/></disks></domainbackup>`), 0o644))
	b.virsh("backup-begin", "g1", b.path("backup.xml"))
	b.waitBackup("g1")
	b.qemuImg("rebase", "-u", "-f", "qcow2", "-b", b.path("then.raw"), "-F", "raw", b.path("since.qcow2"))
	b.qemuImg("compare", "-U", "-f", "qcow2", "-F", "qcow2", active, b.path("since.qcow2"))
	b.virsh("resume", "g1")
	b.virsh("checkpoint-delete", "g1", "c1")
	b.wantInOrder("g1", 4)
}

func (b *bed) waitBackup(dom string) {
	b.t.Helper()
	b.await("the end of the backup", func() bool { return strings.Contains(b.virsh("domjobinfo", dom), "None") })
}
