package integration_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// A wizardGuest is a guest as virt-install defines it: UEFI with its variables, a TPM, virtio
// disk, CD-ROM drive, channels. Nothing runs in it but its firmware: the test writes for it.
type wizardGuest struct {
	*bed
	now    []byte            // what is on its disk
	states map[string]string // snapshot → hash of its state
}

const wizardSize = 4 << 20

func newWizardGuest(t *testing.T) *wizardGuest {
	t.Helper()
	g := &wizardGuest{bed: newDaemonBed(t), now: make([]byte, wizardSize), states: map[string]string{}}
	g.logsOnFailure("g1")
	g.inside = true // the variables and the TPM are where libvirt puts them
	g.writePolicy(keepThree)
	disk, iso := g.path("images", "g1.qcow2"), g.path("install.iso")
	g.qemuImg("create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", disk, fmt.Sprint(wizardSize))
	must(t, os.WriteFile(iso, make([]byte, 1<<20), 0o644))
	out, err := g.host.Command(t.Context(), "virt-install", "--connect", g.host.URI(), "--print-xml", "2",
		"--name", "g1", "--memory", "128", "--virt-type", "qemu", "--osinfo", "linux2022", "--boot", "uefi", "--tpm", "default",
		"--disk", "path="+disk+",bus=virtio", "--cdrom", iso, "--network", "none", "--graphics", "none", "--noautoconsole").Output()
	if err != nil {
		t.Fatalf("virt-install: %v: %s", err, out)
	}
	file := g.path("g1.xml")
	must(t, os.WriteFile(file, out, 0o644))
	g.virsh("define", file)
	g.virsh("start", "g1")
	have := g.virsh("dumpxml", "g1")
	for _, part := range []string{"<nvram", "<tpm ", "device='cdrom'", "<channel ", "bus='virtio'"} {
		if !strings.Contains(have, part) {
			t.Errorf("virt-install makes no guest with %s", part)
		}
	}
	return g
}

// write writes n to a place of its own on the disk, as the guest would, which runs or is off.
func (g *wizardGuest) write(n int) {
	g.t.Helper()
	at := n % 32 * 128 << 10
	for i := range 64 << 10 {
		g.now[at+i] = byte(n)
	}
	command := fmt.Sprintf("write -q -P %d %d 64k", n, at)
	if g.domState("g1") == "running" {
		g.virsh("qemu-monitor-command", "g1", "--hmp", "qemu-io -d "+g.device()+" \""+command+"\"")
		return
	}
	d := g.disk("g1", "vda")
	if out, err := g.host.Command(g.t.Context(), "qemu-io", "-f", d.Format, "-c", command, d.Path).CombinedOutput(); err != nil {
		g.t.Fatalf("%v: %s", err, out)
	}
}

// device is what QEMU calls the disk.
func (g *wizardGuest) device() string {
	g.t.Helper()
	for _, field := range strings.Fields(g.virsh("qemu-monitor-command", "g1", "--hmp", "info block")) {
		if strings.HasPrefix(field, "/machine/peripheral/virtio-disk") {
			return field
		}
	}
	g.t.Fatal("QEMU has no virtio disk")
	return ""
}

// check sees that the disk holds what was written, and each snapshot what it had.
func (g *wizardGuest) check() {
	g.t.Helper()
	d := g.disk("g1", "vda")
	if want := fmt.Sprintf("%x", sha256.Sum256(g.now)); g.domState("g1") != "running" && g.hash(d.Path, d.Format) != want {
		g.t.Error("the disk holds something else than was written")
	}
	for _, s := range g.snapshots("g1") {
		for _, sd := range s.Disks {
			if sd.Target != "vda" {
				continue
			}
			layer, err := guest.StateLayer(g.t.Context(), sd)
			must(g.t, err)
			switch hash := g.hash(layer.Path, layer.Format); {
			case g.states[s.Name] == "":
				g.states[s.Name] = hash
			case g.states[s.Name] != hash:
				g.t.Errorf("the state of %s has changed", s.Name)
			}
		}
	}
}

func (g *wizardGuest) hash(path, format string) string {
	g.t.Helper()
	raw := g.path("hash.raw")
	g.qemuImg("convert", "-U", "-f", format, "-O", "raw", path, raw)
	data, err := os.ReadFile(raw)
	must(g.t, err)
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

// rotateOnce writes and runs a rotation, after which there is one snapshot more, of what was written.
func (g *wizardGuest) rotateOnce(n int) {
	g.t.Helper()
	g.write(n)
	g.rotateNow("g1")
	fresh := 0
	for _, name := range g.snapshotNames("g1") {
		if g.states[name] == "" {
			g.states[name] = fmt.Sprintf("%x", sha256.Sum256(g.now))
			fresh++
		}
	}
	if fresh != 1 {
		g.t.Errorf("%d new snapshots, want 1", fresh)
	}
	g.check()
}

func (g *wizardGuest) power(on bool) {
	g.t.Helper()
	if running := g.domState("g1") == "running"; running == on {
		return
	}
	g.virsh(map[bool]string{true: "start", false: "destroy"}[on], "g1")
}

// A guest with all that virt-install gives it is rotated ten times, running and shut off by
// turns, goes back by restore and by libvirt's revert, loses a snapshot by libvirt's delete,
// and is rotated on.
func TestAGuestOfVirtInstall(t *testing.T) {
	long(t)
	t.Parallel()
	g := newWizardGuest(t)
	for n := range 10 {
		g.power(n%2 == 0)
		g.rotateOnce(n + 1)
	}
	names := g.snapshotNames("g1")
	if len(names) != 3 {
		t.Fatalf("snapshots %q, want 3", names)
	}
	g.power(false)
	g.rotate("restore", "g1", names[1]).wantExit(t, 0)
	d := g.disk("g1", "vda")
	if g.hash(d.Path, d.Format) != g.states[names[1]] {
		t.Error("restore has not gone back")
	}
	g.adopt()
	g.check()
	g.rotateOnce(11)
	g.power(true)
	g.rotateOnce(12)
	g.virsh("snapshot-delete", "g1", g.snapshotNames("g1")[1])
	g.check()
	g.removeOrphan()
	g.rotateOnce(13)
	g.power(false)
	name := g.snapshotNames("g1")[1]
	if _, err := g.host.Virsh(t.Context(), "snapshot-revert", "g1", name); (err == nil) != g.libvirtReverts() {
		t.Errorf("snapshot-revert: %v", err)
	} else if err == nil {
		d := g.disk("g1", "vda")
		if g.hash(d.Path, d.Format) != g.states[name] {
			t.Error("libvirt has not gone back")
		}
	}
	g.adopt()
	for n := range 6 {
		g.power(n%2 == 1)
		g.rotateOnce(20 + n)
	}
	g.power(true)
	g.noRecords()
	if r := g.rotate("doctor", "g1").wantExit(t, 0); strings.Contains(r.Stdout, "-not-covered") || strings.Contains(r.Stdout, "orphan") {
		t.Errorf("%v", r)
	}
	g.onlyTheChain()
}

// removeOrphan removes the firmware's state of the snapshot that libvirt has deleted: doctor names it.
func (g *wizardGuest) removeOrphan() {
	g.t.Helper()
	var found struct{ Findings []struct{ Code, Path string } }
	g.rotate("doctor", "--output=json").decode(g.t, &found)
	n := 0
	for _, f := range found.Findings {
		if f.Code == "orphan" && strings.HasSuffix(f.Path, ".firmware.tar") {
			must(g.t, os.Remove(f.Path))
			n++
		}
	}
	if n != 1 {
		g.t.Errorf("%d orphans of the firmware, want 1: %+v", n, found)
	}
}

// adopt takes what the disk holds for what was written.
func (g *wizardGuest) adopt() {
	g.t.Helper()
	d := g.disk("g1", "vda")
	g.hash(d.Path, d.Format)
	data, err := os.ReadFile(g.path("hash.raw"))
	must(g.t, err)
	g.now = data
}

// onlyTheChain sees that nothing lies beside the images of the disk.
func (g *wizardGuest) onlyTheChain() {
	g.t.Helper()
	chain := g.chain("g1", "vda")
	files, err := filepath.Glob(g.path("images", "*"))
	must(g.t, err)
	kept := 0
	for _, f := range files {
		if strings.HasSuffix(f, ".firmware.tar") {
			kept++
			continue
		}
		if !slices.ContainsFunc(chain, func(l guest.Layer) bool { return l.Path == f }) {
			g.t.Errorf("%s is left over", f)
		}
	}
	if kept != 3 {
		g.t.Errorf("%d copies of the firmware's state, want 3: one for each snapshot", kept)
	}
	if len(chain) != 4 {
		g.t.Errorf("%d layers, want 4: %v", len(chain), chain)
	}
}
