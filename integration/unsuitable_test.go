package integration_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// An idleDisk is one that no snapshot is taken of, beside those that the guest writes to.
type idleDisk struct {
	target, code string
	xml          string   // of its <disk>
	image        []string // what qemu-img create makes it of; nil: nothing
	file         string   // of the image, whose content must not change
}

// secretUUID is that of the passphrase of encrypted disks.
const secretUUID = "5a1b2c3d-0000-4000-8000-000000000001"

const passphrase = "not a secret at all"

// defineSecret tells libvirt the passphrase.
func (b *bed) defineSecret() {
	b.t.Helper()
	file := b.path("secret.xml")
	must(b.t, os.WriteFile(file, []byte(`<secret ephemeral='no' private='no'><uuid>`+secretUUID+`</uuid></secret>`), 0o600))
	b.virsh("secret-define", file)
	b.virsh("secret-set-value", secretUUID, "--base64", base64.StdEncoding.EncodeToString([]byte(passphrase)))
}

const encryption = `<encryption format='luks'><secret type='passphrase' uuid='` + secretUUID + `'/></encryption>`

// luks makes qemu-img create an image that is encrypted, with the options of a format.
// What it costs to guess the passphrase does not matter here.
func luks(options string) []string {
	return []string{"--object", "secret,id=s,data=" + passphrase, "-o", options}
}

const (
	luksOptions  = "key-secret=s,iter-time=10"
	qcow2Options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
)

// createImage makes an image. QEMU gives up now and then when it measures how fast this
// machine derives a key.
func (b *bed) createImage(args ...string) {
	b.t.Helper()
	b.await("an image", func() bool {
		_, err := guest.QemuImg(b.t.Context(), args...)
		if err != nil && !strings.Contains(err.Error(), "Unable to get accurate CPU usage") {
			b.t.Fatal(err)
		}
		return err == nil
	})
}

// idleFile is a disk on an image file.
func (b *bed) idleFile(target, code, format, more string, options ...string) idleDisk {
	path := b.path("images", "idle-"+target)
	return idleDisk{target: target, code: code, file: path,
		image: slices.Concat([]string{"create", "-q", "-f", format}, options, []string{path, "4M"}),
		xml: `<disk type='file' device='disk'><driver name='qemu' type='` + strings.Replace(format, "luks", "raw", 1) + `'/><source file='` + path + `'/>` +
			`<target dev='` + target + `' bus='virtio'/>` + more + `</disk>`}
}

// idleDisks are the kinds that a guest can be started with here.
func (b *bed) idleDisks() []idleDisk {
	b.t.Helper()
	must(b.t, os.WriteFile(b.path("net.raw"), make([]byte, 4<<20), 0o600))
	return []idleDisk{
		b.idleFile("vdm", "shareable-disk", "raw", "<shareable/>"),
		b.idleFile("vdn", "encrypted", "luks", encryption, luks(luksOptions)...),
		b.idleFile("vdo", "encrypted", "qcow2", encryption, luks(qcow2Options)...),
		b.idleFile("vdp", "data-file", "qcow2", "", "-o", "data_file="+b.path("images", "data")),
		{target: "vdq", code: "network-disk", file: b.path("net.raw"), xml: `<disk type='network' device='disk'><driver name='qemu' type='raw'/>` +
			`<source protocol='nbd' name=''><host transport='unix' socket='` + b.path("nbd.sock") + `'/></source><target dev='vdq' bus='virtio'/></disk>`},
	}
}

// onlyOff are those of which libvirt need not start a guest to know them.
func onlyOff() []idleDisk {
	virtio := func(target string) string { return `<target dev='` + target + `' bus='virtio'/></disk>` }
	return []idleDisk{
		{target: "sda", code: "disk-type", xml: `<disk type='block' device='lun'><driver name='qemu' type='raw'/><source dev='/dev/sg-none'/><target dev='sda' bus='scsi'/></disk>`},
		{target: "vdr", code: "network-disk", xml: `<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='rbd' name='pool/image'><host name='ceph' port='6789'/></source>` + virtio("vdr")},
		{target: "vds", code: "disk-type", xml: `<disk type='nvme' device='disk'><driver name='qemu' type='raw'/><source type='pci' managed='yes' namespace='1'><address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></source>` + virtio("vds")},
		{target: "vdt", code: "disk-type", xml: `<disk type='vhostuser' device='disk'><driver name='qemu' type='raw'/><source type='unix' path='/run/none.sock'/>` + virtio("vdt")},
	}
}

// serveNBD exports a file, as often as it is asked for, until the test ends.
func (b *bed) serveNBD(file, socket string) {
	b.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "qemu-nbd", "-t", "-e", "5", "-x", "", "-f", "raw", "-k", socket, file)
	must(b.t, cmd.Start())
	b.t.Cleanup(func() {
		stop()
		_ = cmd.Wait() // killed
	})
	b.await("the NBD server", func() bool { _, err := os.Stat(socket); return err == nil })
}

// sums are those of the images of idle disks.
func (b *bed) sums(disks []idleDisk) map[string]string {
	b.t.Helper()
	sums := map[string]string{}
	for _, d := range disks {
		if d.file == "" {
			continue
		}
		f, err := os.Open(d.file)
		must(b.t, err)
		h := sha256.New()
		_, err = io.Copy(h, f)
		must(b.t, err)
		must(b.t, f.Close())
		sums[d.target] = fmt.Sprintf("%x", h.Sum(nil))
	}
	return sums
}

// beside defines a guest with a disk of its own and the idle ones.
func (b *bed) beside(idle []idleDisk) {
	b.t.Helper()
	spec := guest.Spec{Name: "g1"}
	for _, d := range idle {
		if d.image != nil {
			b.createImage(d.image...)
		}
		spec.Idle = append(spec.Idle, d.target)
		if !strings.Contains(d.xml, "vhostuser") { // which needs more than a device
			spec.Devices += d.xml + "\n"
		}
	}
	b.define(spec)
	if i := slices.IndexFunc(idle, func(d idleDisk) bool { return strings.Contains(d.xml, "vhostuser") }); i >= 0 {
		b.edit("g1", "<vcpu", "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking><vcpu", "</devices>", idle[i].xml+"</devices>")
	}
}

// edit defines the domain anew, with texts of its configuration in place of others.
func (b *bed) edit(dom string, oldnew ...string) {
	b.t.Helper()
	file := b.path("edited.xml")
	must(b.t, os.WriteFile(file, []byte(strings.NewReplacer(oldnew...).Replace(b.virsh("dumpxml", "--inactive", "--security-info", dom))), 0o600))
	b.virsh("define", file)
}

// wantIdleSkipped fails the test unless exactly the idle disks are skipped, each with its code.
func wantIdleSkipped(t *testing.T, r report, idle []idleDisk) {
	t.Helper()
	want, have := map[string]string{}, map[string]string{}
	for _, d := range idle {
		want[d.target] = d.code
	}
	for _, s := range r.Domains[0].Skipped {
		have[s.Path] = s.Code
	}
	if !maps.Equal(want, have) || len(r.Domains[0].Refused) > 0 {
		t.Errorf("skipped %v, want %v; refused %v", have, want, r.Domains[0].Refused)
	}
}

const skipUnsuitable = keepThree + "\non_unsuitable = \"skip\""

// A guest with one disk of each unsuitable kind is rotated, running and off, goes back to a
// snapshot and goes on; nothing of the others changes.
func TestUnsuitableDisksLeaveTheOthersRotated(t *testing.T) {
	long(t)
	t.Parallel()
	b := newDaemonBed(t)
	b.logsOnFailure("g1")
	b.defineSecret()
	idle := b.idleDisks()
	b.beside(idle)
	b.serveNBD(b.path("net.raw"), b.path("nbd.sock"))
	b.start("g1")
	before := b.sums(idle)

	b.writePolicy(keepThree)
	var r report
	b.rotate("run", "--now", "--output=json").wantExit(t, 4).decode(t, &r)
	if len(r.Domains[0].Steps) > 0 || len(r.Domains[0].Refused) != len(idle) {
		t.Errorf("refused: %+v", r)
	}
	for _, refused := range r.Domains[0].Refused {
		if !strings.Contains(refused.Detail, `on_unsuitable = "skip"`) || !strings.Contains(refused.Detail, `exclude_disks = ["vd`) {
			t.Errorf("%s", refused.Detail)
		}
	}

	b.writePolicy(skipUnsuitable)
	for _, state := range []string{"running", "shut off", "running"} {
		b.bring("g1", "running")
		b.rotations("g1", 2)
		b.waitWrites("g1", 30)
		b.bring("g1", state)
		wantIdleSkipped(t, b.rotateNow(), idle)
	}
	newest := b.snapshotNames("g1")[2]
	if text := b.virsh("snapshot-dumpxml", "g1", newest); !strings.Contains(text, "<description>Taken by virt-rotate (policy p; without vdm: shareable-disk, vdn: encrypted, vdo: encrypted, vdp: data-file, vdq: network-disk)</description>") {
		t.Errorf("%s", text)
	}
	if r := b.rotate("status", "*").wantExit(t, 0); !strings.Contains(r.Stdout, "skipped   network-disk: vdq: ") || !strings.Contains(r.Stdout, "without vdm: shareable-disk, vdn: ") {
		t.Errorf("%v", r)
	}
	if r := b.rotate("doctor", "g1").wantExit(t, 0); strings.Count(r.Stdout, "note ") != len(idle) {
		t.Errorf("%v", r)
	}

	b.waitWrites("g1", 30)
	kept, to := b.keptStates("g1"), b.snapshotNames("g1")[0]
	back := b.rotate("restore", "--stop", "--no-start", "--force", "--patience", "1s", "g1", to).wantExit(t, 0)
	for _, d := range idle {
		if !strings.Contains(back.String(), d.target+", which the snapshot was taken without, stays") {
			t.Errorf("%s: %v", d.target, back)
		}
	}
	b.unchanged("g1", kept)
	if got := b.checkGuest("g1"); !maps.Equal(got, kept[to]) {
		t.Errorf("the guest has %v, not %v", got, kept[to])
	}
	b.start("g1")

	b.writePolicy(keepThree + "\nexclude_disks = [\"vd[m-q]\"]")
	for _, state := range []string{"running", "shut off"} {
		b.bring("g1", "running")
		b.rotations("g1", 5)
		b.waitWrites("g1", 30)
		b.bring("g1", state)
		if r := b.rotateNow(); len(r.Domains[0].Skipped) > 0 {
			t.Errorf("%+v", r)
		}
	}
	if text := b.virsh("snapshot-dumpxml", "g1", b.snapshotNames("g1")[2]); !strings.Contains(text, "(policy p)</description>") {
		t.Errorf("%s", text)
	}
	b.checkImages("g1")
	b.wantInOrder("g1", 4)
	if after := b.sums(idle); !maps.Equal(after, before) {
		t.Errorf("images of disks that are left out have changed: %v, were %v", after, before)
	}
}

// Disks that need a host with such hardware leave a guest that is off its snapshots, too.
func TestUnsuitableDisksOfAGuestThatIsOff(t *testing.T) {
	long(t)
	t.Parallel()
	for name, more := range map[string]string{"skip": "on_unsuitable = \"skip\"", "exclude": "exclude_disks = [\"sda\", \"vd[r-t]\"]"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newDaemonBed(t)
			b.beside(onlyOff())
			b.writePolicy(keepThree)
			b.rotate("run", "--now").wantExit(t, 4)
			b.writePolicy(keepThree + "\n" + more)
			r := b.rotateNow()
			if name == "skip" {
				wantIdleSkipped(t, r, onlyOff())
			}
			first := b.snapshotNames("g1")[0]
			overlay := b.disk("g1", "vda").Path
			must(t, exec.Command("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 64k", overlay).Run()) // in place of the guest
			b.rotateNow()
			if r := b.rotate("restore", "g1", first).wantExit(t, 0); strings.Count(r.Stdout, "which the snapshot was taken without") != len(onlyOff()) {
				t.Errorf("%v", r)
			}
			if names := b.snapshotNames("g1"); len(names) != 2 || b.disk("g1", "vda").Path == overlay {
				t.Errorf("%q, %v", names, b.disks("g1"))
			}
			b.checkImages("g1")
		})
	}
}

// A transient disk is an overlay of QEMU's own: a guest with one is rotated without it.
func TestATransientDiskIsLeftOut(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.writePolicy(skipUnsuitable)
	idle := []idleDisk{b.idleFile("vdm", "transient-disk", "qcow2", "<transient/>")}
	b.beside(idle)
	b.start("g1")
	b.rotations("g1", 5)
	wantIdleSkipped(t, b.rotateNow(), idle)
	b.destroy("g1")
	b.rotate("run", "--now").wantExit(t, 0)
	b.checkImages("g1")
}
