package integration_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// owner is whose uid and gid a base gets, to see that both stay.
const owner = 12345

// An alternateCase is a guest that is rotated while it runs and while it is off.
type alternateCase struct {
	name     string
	disks    func(b *bed) []guest.DiskSpec
	block    bool // the base is a device: overlays go to a directory of their own
	relative bool // headers name their backing files relatively
	below    int  // layers below the one that merges go to
}

func oneDisk(*bed) []guest.DiskSpec  { return []guest.DiskSpec{{}} }
func twoDisks(*bed) []guest.DiskSpec { return []guest.DiskSpec{{}, {Format: "raw"}} }

// onDevices are a raw base and a qcow2 one on block devices.
func onDevices(b *bed) []guest.DiskSpec {
	return []guest.DiskSpec{
		{Path: b.loopDevice(8 << 20), Format: "raw", Block: true},
		{Path: b.loopDevice(16 << 20), Format: "qcow2", Size: 8 << 20, Block: true},
	}
}

// onLinks are a device and an image that the configuration names by symbolic links, as it
// does logical volumes.
func onLinks(b *bed) []guest.DiskSpec {
	volume, image := b.path("vg", "web"), b.path("images", "linked.qcow2")
	must(b.t, os.MkdirAll(b.path("vg"), 0o755))
	must(b.t, os.MkdirAll(b.path("store"), 0o755))
	must(b.t, os.Symlink(b.loopDevice(8<<20), volume))
	b.qemuImg("create", "-q", "-f", "qcow2", b.path("store", "0001.qcow2"), "8M")
	must(b.t, os.Symlink(b.path("store", "0001.qcow2"), image))
	return []guest.DiskSpec{{Path: volume, Format: "raw", Block: true}, {Path: image, Existing: true}}
}

// onUdevsNames are devices that the configuration names as udev does, by links that lead
// up from a directory below /dev.
func onUdevsNames(b *bed) []guest.DiskSpec {
	const dir = "/dev/disk/by-id"
	must(b.t, os.MkdirAll(dir, 0o755))
	var disks []guest.DiskSpec
	for i, d := range onDevices(b) {
		name := filepath.Join(dir, fmt.Sprintf("virt-rotate-test-%d-%d", os.Getpid(), i))
		must(b.t, os.Symlink("../../"+filepath.Base(d.Path), name))
		b.t.Cleanup(func() { must(b.t, os.Remove(name)) })
		d.Path = name
		disks = append(disks, d)
	}
	return disks
}

// onRelative are disks whose first own layers name their backing files relatively.
func onRelative(b *bed) []guest.DiskSpec {
	var disks []guest.DiskSpec
	for _, name := range []string{"g1-a", "g1-b"} {
		top := b.path("images", name+".qcow2")
		b.qemuImg("create", "-q", "-f", "qcow2", b.path("images", "lower-"+name+".qcow2"), "8M")
		b.qemuImg("create", "-q", "-f", "qcow2", "-b", "lower-"+name+".qcow2", "-F", "qcow2", top)
		disks = append(disks, guest.DiskSpec{Path: top, Existing: true})
	}
	return disks
}

// Guests that are shut off every other time: each time they have written, are
// rotated, and are started from their persistent configuration. What virsh, doctor
// and the guest itself see is the same after both kinds of rotation.
func TestTenRotationsOfAGuestThatRunsAndIsShutOff(t *testing.T) {
	t.Parallel()
	for _, c := range few([]alternateCase{
		{name: "qcow2 base", disks: oneDisk},
		{name: "two disks", disks: twoDisks},
		{name: "bases on block devices", disks: onDevices, block: true},
		{name: "symbolic links", disks: onLinks, block: true},
		{name: "names of udev", disks: onUdevsNames, block: true},
		{name: "relative names", disks: onRelative, relative: true, below: 1},
	}, 2) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			b.logsOnFailure("g1")
			policy := keepThree
			if c.block {
				must(t, os.Mkdir(b.path("overlays"), 0o755))
				policy += "\noverlay_dir = \"" + b.path("overlays") + "\""
			}
			b.writePolicy(policy)
			b.boot(guest.Spec{Name: "g1", Disks: c.disks(b)})
			base := b.disk("g1", "vda").Path
			for n := range ten(c.name == "two disks") {
				if off := n%2 == 0; off {
					c.rotateOff(b, base, n >= 3)
				} else {
					c.rotateOn(b)
				}
				b.checkImages("g1")
				b.start("g1")
				b.checkGuest("g1")
			}
			if names := b.snapshotNames("g1"); len(names) != 3 {
				t.Errorf("snapshots %q, want 3", names)
			}
			b.exportsAreTheStates("g1")
			b.destroy("g1")
			b.deleteByLibvirt("g1")
			b.start("g1")
			b.rotations("g1", 1)
			b.wantInOrder("g1", 4+c.below)
			b.revertByLibvirt("g1")
		})
	}
}

// ten is how many rotations of a guest are tried: ten of one kind of guest, and of all others
// six, which is when merges both ways have been, unless VIRT_ROTATE_TEN is set.
func ten(one bool) int {
	if one || os.Getenv("VIRT_ROTATE_TEN") != "" {
		return 10
	}
	return 6
}

// rotateOff shuts the guest off and rotates it. Merges are the engine's, one a disk.
func (c *alternateCase) rotateOff(b *bed, base string, merges bool) {
	b.t.Helper()
	b.waitWrites("g1", 30)
	b.destroy("g1")
	if !c.block { // libvirt takes and gives files at each start and stop
		must(b.t, os.Chown(base, owner, owner))
		must(b.t, os.Chmod(base, 0o640))
	}
	if c.relative {
		b.nameRelatively("g1")
	}
	before := b.keptStates("g1")
	r := b.rotateNow("g1")
	b.unchanged("g1", before)
	if info, err := os.Stat(base); !c.block && (err != nil || info.Mode().Perm() != 0o640 || info.Sys().(*syscall.Stat_t).Uid != owner || info.Sys().(*syscall.Stat_t).Gid != owner) {
		b.t.Errorf("the base is %v now: %v", info, err)
	}
	wantMethods(b.t, r, merges, len(b.disks("g1")))
	if c.relative {
		b.wantRelative("g1")
	}
}

// rotateOn rotates the running guest and shuts it off.
func (c *alternateCase) rotateOn(b *bed) {
	b.t.Helper()
	b.rotations("g1", 1)
	b.destroy("g1")
}

// wantMethods wants one merge by the engine for each disk, or none.
func wantMethods(t *testing.T, r report, merged bool, disks int) {
	t.Helper()
	n := 0
	for _, s := range r.Domains[0].Steps {
		if s.Op == "merge" {
			n++
			if s.Method != "offline-commit" {
				t.Errorf("%+v", s)
			}
		}
		if info, err := os.Stat(s.Path); s.Op == "snapshot" && (err != nil || info.Mode().Perm() != 0o600) {
			t.Errorf("overlay %s: %v, %v", s.Path, info, err)
		}
	}
	if merged != (n == disks) || !merged && n > 0 {
		t.Errorf("%d merges of %d disks: %+v", n, disks, r.Domains[0].Steps)
	}
}

// nameRelatively lets all images of a guest that is off name their backing files
// relatively, as those do that were made by hand.
func (b *bed) nameRelatively(dom string) {
	b.t.Helper()
	for _, d := range b.disks(dom) {
		for _, l := range b.chainOf(d) {
			if l.Backing != "" {
				b.qemuImg("rebase", "-u", "-f", l.Format, "-F", l.BackingFormat, "-b", filepath.Base(l.Backing), l.Path)
			}
		}
	}
}

// wantRelative sees that names are relative still, but for that of the newest overlay.
func (b *bed) wantRelative(dom string) {
	b.t.Helper()
	for _, d := range b.disks(dom) {
		for _, l := range b.chainOf(d)[1:] {
			text := b.qemuImg("info", "-U", "-f", l.Format, l.Path)
			if l.Backing != "" && !strings.Contains(text, "backing file: "+filepath.Base(l.Backing)+" (actual path:") {
				b.t.Errorf("the backing name is not relative any more:\n%s", text)
			}
		}
	}
}

// exportsAreTheStates reads each snapshot with virt-rotate itself: it sees what
// qemu-img sees.
func (b *bed) exportsAreTheStates(dom string) {
	b.t.Helper()
	for name, disks := range b.keptStates(dom) {
		for target, state := range disks {
			r := b.rotate("export", dom, name, "--disk", target, "-o", "-").wantExit(b.t, 0)
			if got := fmt.Sprintf("%x", sha256.Sum256([]byte(r.Stdout))); got != state.SHA256 {
				b.t.Errorf("snapshot %s, %s: the export has sha256 %s, the state %s", name, target, got, state.SHA256)
			}
		}
	}
}

// revertByLibvirt has libvirt itself go back to the oldest snapshot, where it can.
func (b *bed) revertByLibvirt(dom string) {
	b.t.Helper()
	name := b.snapshotNames(dom)[0]
	before := b.keptStates(dom)
	b.destroy(dom)
	if !b.goBackByLibvirt(dom, name) {
		b.unchanged(dom, before)
	}
	b.start(dom)
}

// goBackByLibvirt has libvirt itself take a guest that is off back to a snapshot, and sees that
// it has done so. It is false where libvirt must refuse that: before 9.9, and with disks that
// are no files.
func (b *bed) goBackByLibvirt(dom, name string, args ...string) bool {
	b.t.Helper()
	before := b.keptStates(dom)
	out, err := b.host.Virsh(b.t.Context(), append([]string{"snapshot-revert", dom, name}, args...)...)
	if !b.libvirtReverts() || b.onDevice(dom) {
		if err == nil {
			b.t.Errorf("libvirt goes back to an external snapshot: %s", out)
		}
		return false
	}
	must(b.t, err)
	b.unchanged(dom, before)
	if len(args) > 0 { // the guest runs, and writes
		return true
	}
	for target, now := range b.checkGuest(dom) {
		if now != before[name][target] {
			b.t.Errorf("%s is in state %v, not %v", target, now, before[name][target])
		}
	}
	return true
}

// onDevice tells whether a disk of the guest had a block device for its image when it was
// defined.
func (b *bed) onDevice(dom string) bool {
	return slices.ContainsFunc(b.host.Spec(dom).Disks, func(d guest.DiskSpec) bool { return d.Block })
}

// libvirtReverts tells whether libvirt is one that goes back to external snapshots: 9.9.
func (b *bed) libvirtReverts() bool {
	b.t.Helper()
	major, minor := b.libvirtVersion()
	return slices.Compare([]int{major, minor}, []int{9, 9}) >= 0
}

func (b *bed) libvirtVersion() (major, minor int) {
	b.t.Helper()
	version := regexp.MustCompile(`Using library: libvirt (\d+)\.(\d+)`).FindStringSubmatch(b.virsh("version"))
	if len(version) != 3 {
		b.t.Fatalf("no version in %q", version)
	}
	major, err := strconv.Atoi(version[1])
	must(b.t, err)
	minor, err = strconv.Atoi(version[2])
	must(b.t, err)
	return major, minor
}
