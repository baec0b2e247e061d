package integration_test

import (
	"fmt"
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

// A backup program takes a full backup, and what has changed since, again and again; between
// them the guest is rotated, with merges, running, off, and running again. Full and
// incremental backups together are the guest's disks of that moment, each time.
func TestIncrementalBackupsAreRightBetweenRotations(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"auto", "commit", "pull"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			b := newDaemonBed(t)
			b.logsOnFailure("g1")
			b.writePolicy(keepThree + "\nmethod = \"" + method + "\"")
			b.boot(guest.Spec{Name: "g1", Disks: make([]guest.DiskSpec, 2), Params: guest.Params{Pause: slowly}})
			b.slowRotations("g1", 4)
			program := &backupProgram{bed: b, dom: "g1"}
			program.backUp()
			for _, off := range []bool{false, true, false} {
				b.slowRotations("g1", 2)
				if off {
					b.waitWrites("g1", 8)
					b.destroy("g1")
					if r := b.rotateNow(); !strings.Contains(r.Domains[0].Waiting, "checkpoint") || len(r.Domains[0].Steps) > 0 {
						t.Errorf("%+v", r)
					}
					b.start("g1")
				}
				program.backUp()
			}
			program.forget()
			b.wantInOrder("g1", 4)
		})
	}
}

// libvirt neither takes nor changes snapshots of a guest that is off and has checkpoints: what retention would drop waits, and
// notes and pins are refused before anything is changed. Once it runs, its layers are merged, and an incremental
// backup has all that has changed since its checkpoint.
func TestAGuestWithCheckpointsThatIsOffWaitsForItsStart(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.logsOnFailure("g1")
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1", Disks: make([]guest.DiskSpec, 2), Params: guest.Params{Pause: slowly}})
	program := &backupProgram{bed: b, dom: "g1"}
	program.backUp()
	b.slowRotations("g1", 3)
	program.backUp()
	b.slowRotations("g1", 1)
	b.waitWrites("g1", 8)
	b.destroy("g1")
	b.writePolicy(strings.Replace(keepThree, "last = 3", "last = 1", 1))
	before := b.virsh("snapshot-list", "--tree", "g1")
	if r := b.rotateNow(); !strings.Contains(r.Domains[0].Waiting, "2 checkpoints") || len(r.Domains[0].Steps)+len(r.Domains[0].Refused) > 0 {
		t.Errorf("%+v", r)
	}
	if r := b.rotate("pin", "g1", "latest"); r.Exit == 0 || !strings.Contains(r.Stderr, "2 checkpoints") {
		t.Errorf("%v", r)
	}
	if now := b.virsh("snapshot-list", "--tree", "g1"); now != before {
		t.Errorf("%s\nwere %s", now, before)
	}
	b.start("g1")
	b.slowRotations("g1", 1)
	b.wantInOrder("g1", 2)
	program.backUp()
	program.forget()
}

// slowly lets a guest leave some clusters alone between two backups: a bitmap that has lost
// bits would not show if it had written to all of them.
const slowly = 10

// slowRotations is rotations with few writes.
func (b *bed) slowRotations(dom string, n int) {
	b.t.Helper()
	for range n {
		b.waitWrites(dom, 8)
		kept := b.keptStates(dom)
		b.rotateNow(dom)
		b.unchanged(dom, kept)
	}
}

// A backupProgram keeps full and incremental backups of a guest's disks, as others do it: by
// a checkpoint for each backup.
type backupProgram struct {
	*bed
	dom string
	n   int
}

// backUp adds a backup, and sees that it and those before are the guest's disks as they are.
func (p *backupProgram) backUp() {
	p.t.Helper()
	p.virsh("suspend", p.dom)
	disks := p.disks(p.dom)
	incremental, targets, points := "", "", ""
	if p.n > 0 {
		incremental = "<incremental>" + p.checkpoint(p.n-1) + "</incremental>"
	}
	for _, d := range disks {
		targets += `<disk name="` + d.Target + `" backup="yes" type="file"><target file="` + p.file(d.Target, p.n) + `"/><driver type="qcow2"/></disk>`
		points += `<disk name="` + d.Target + `" checkpoint="bitmap"/>`
	}
	must(p.t, os.WriteFile(p.path("backup.xml"), []byte(`<domainbackup mode="push">`+incremental+`<disks>`+targets+`<disk name="vdz" backup="no"/></disks></domainbackup>`), 0o644))
	must(p.t, os.WriteFile(p.path("checkpoint.xml"), []byte(`<domaincheckpoint><name>`+p.checkpoint(p.n)+`</name><disks>`+points+`<disk name="vdz" checkpoint="no"/></disks></domaincheckpoint>`), 0o644))
	p.virsh("backup-begin", p.dom, p.path("backup.xml"), p.path("checkpoint.xml"))
	p.waitBackup(p.dom)
	for _, d := range disks {
		if p.n > 0 {
			p.qemuImg("rebase", "-u", "-f", "qcow2", "-b", p.file(d.Target, p.n-1), "-F", "qcow2", p.file(d.Target, p.n))
		}
		p.qemuImg("compare", "-U", "-f", d.Format, "-F", "qcow2", d.Path, p.file(d.Target, p.n))
	}
	p.virsh("resume", p.dom)
	p.n++
}

func (p *backupProgram) checkpoint(n int) string { return fmt.Sprintf("virtnbdbackup.%d", n) }

func (p *backupProgram) file(target string, n int) string {
	return p.path(fmt.Sprintf("backup.%s.%d.qcow2", target, n))
}

// forget deletes the checkpoints, newest first.
func (p *backupProgram) forget() {
	p.t.Helper()
	for n := p.n - 1; n >= 0; n-- {
		p.virsh("checkpoint-delete", p.dom, p.checkpoint(n))
	}
}

func (b *bed) waitBackup(dom string) {
	b.t.Helper()
	b.await("the end of the backup", func() bool { return strings.Contains(b.virsh("domjobinfo", dom), "None") })
}
