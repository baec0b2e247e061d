package integration_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// A volumeCase is a guest of whose disks libvirt knows some as volumes of a storage pool.
type volumeCase struct {
	name    string
	mount   string // the file system of the pool; "" for a directory
	disks   func(dir string) []guest.DiskSpec
	devices string // more of them
	below   int    // layers below those that the guest was given
	policy  string // more keys of it
	restore string // a flag for it
}

// rule is the policy, which keeps so many.
func (c *volumeCase) rule(last string) string {
	return strings.Replace(keepThree, "last = 3", "last = "+last, 1) + "\n" + c.policy
}

func oneVolume(dir string) []guest.DiskSpec {
	return []guest.DiskSpec{{Path: dir + "/web.qcow2", Pool: "default"}}
}

// addedVolume is what a guest has to which a disk was added by Cockpit.
func addedVolume(dir string) []guest.DiskSpec {
	return []guest.DiskSpec{{}, {Path: dir + "/added.qcow2", Pool: "default"}}
}

func rawVolume(dir string) []guest.DiskSpec {
	return []guest.DiskSpec{{Path: dir + "/web.raw", Format: "raw", Pool: "default"}}
}

// clonedVolume is a volume on an image that it shares with others, as Terraform makes them.
func clonedVolume(dir string) []guest.DiskSpec {
	return []guest.DiskSpec{{Path: dir + "/web.qcow2", Pool: "default", Backing: dir + "/debian.qcow2", BackingFormat: "qcow2"}}
}

// asByTerraform are devices that terraform-provider-libvirt gives a guest beside its disk.
const asByTerraform = `<disk type='volume' device='cdrom'><driver name='qemu' type='raw'/><source pool='default' volume='init.iso'/><target dev='sda' bus='scsi'/><readonly/></disk>
<controller type='scsi' model='virtio-scsi'/>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<rng model='virtio'><backend model='builtin'/></rng>`

// newPoolBed is a host with a storage pool, in which there are an image and a CD.
func newPoolBed(t *testing.T, mount string) (b *bed, dir string) {
	t.Helper()
	if mount == "" {
		b = newDaemonBed(t)
		dir = b.path("pool")
		must(t, os.Mkdir(dir, 0o755))
		b.virsh("pool-define-as", "default", "dir", "--target", dir)
	} else {
		place := shortDir(t)
		loop, err := guest.NewLoopMount(t.Context(), place+"/loop", mount, place+"/d", 300<<20) // before libvirtd, which has its own mounts
		must(t, err)
		b, dir = newDaemonBed(t), loop.Dir
		b.loops = append(b.loops, loop)
		b.virsh("pool-define-as", "default", "fs", "--source-dev", loop.Device, "--source-format", mount, "--target", dir)
	}
	b.qemuImg("create", "-q", "-f", "qcow2", dir+"/debian.qcow2", "8M")
	must(t, os.WriteFile(dir+"/init.iso", make([]byte, 1<<16), 0o644))
	b.virsh("pool-start", "default")
	return b, dir
}

// Guests whose disks are volumes are rotated while they run and while they are off, go
// back, and have all snapshots merged; their configuration goes on naming the volumes.
func TestTenRotationsOfAGuestOnVolumes(t *testing.T) {
	t.Parallel()
	for _, c := range few([]volumeCase{
		{name: "directory", disks: oneVolume},
		{name: "file system", mount: "ext4", disks: rawVolume},
		{name: "no graft takes a volume's name", mount: "xfs", disks: oneVolume, policy: `method = "graft"`},
		{name: "an added disk", disks: addedVolume, restore: "--with-config"},
		{name: "as by Terraform", disks: clonedVolume, devices: asByTerraform, below: 1},
	}, 1) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b, dir := newPoolBed(t, c.mount)
			b.logsOnFailure("g1")
			b.writePolicy(c.rule("3"))
			b.boot(guest.Spec{Name: "g1", Disks: c.disks(dir), Devices: c.devices})
			c.wantVolumes(b)
			c.tenRotations(b)
			b.exportsAreTheStates("g1")
			c.goBack(b)
			b.wantInOrder("g1", 4+c.below)
			c.wantVolumes(b)
			c.mergeAll(b)
		})
	}
}

func (c *volumeCase) tenRotations(b *bed) {
	b.t.Helper()
	a := &alternateCase{block: true} // with nothing said of owners
	for n := range ten(c.mount == "ext4" && everything()) {
		if off := n%2 == 0; off {
			a.rotateOff(b, "", n >= 3)
		} else {
			a.rotateOn(b)
		}
		c.wantVolumes(b)
		b.checkImages("g1")
		b.start("g1")
		b.checkGuest("g1")
		c.wantVolumes(b)
	}
	if names := b.snapshotNames("g1"); len(names) != 3 {
		b.t.Errorf("snapshots %q, want 3", names)
	}
}

// goBack restores the oldest snapshot, and rotates until nothing of the branch is left.
func (c *volumeCase) goBack(b *bed) {
	b.t.Helper()
	b.destroy("g1")
	before := b.keptStates("g1")
	name := b.snapshotNames("g1")[0]
	b.rotate(slices.DeleteFunc([]string{"restore", c.restore, "g1", name}, func(a string) bool { return a == "" })...).wantExit(b.t, 0)
	b.unchanged("g1", before)
	for target, now := range b.checkGuest("g1") {
		if now != before[name][target] {
			b.t.Errorf("%s is in state %v, not %v", target, now, before[name][target])
		}
	}
	c.wantVolumes(b)
	b.start("g1")
	b.rotations("g1", 5)
	b.noRecords()
}

// mergeAll merges all layers, of the running guest and of the one that is off: the disks
// are volumes again.
func (c *volumeCase) mergeAll(b *bed) {
	b.t.Helper()
	for _, state := range []string{"running", "shut off"} {
		b.writePolicy(c.rule("3"))
		for range 2 {
			b.bring("g1", "running")
			b.waitWrites("g1", 30)
			b.bring("g1", state)
			b.rotateNow("g1")
		}
		b.writePolicy(c.rule("0"))
		b.rotateNow("g1")
		c.wantVolumes(b)
		for _, d := range c.disks(b.poolDir()) {
			if n := len(volumesIn(b.virsh("dumpxml", "g1"), "<disk type='volume' device='disk'>")); d.Pool != "" && n != 1 {
				b.t.Errorf("%s: %d disks are volumes again:\n%s", state, n, b.virsh("dumpxml", "g1"))
			}
		}
		b.checkGuest("g1")
		b.bring("g1", "running")
	}
}

func (b *bed) poolDir() string {
	b.t.Helper()
	return regexp.MustCompile(`<path>(.*)</path>`).FindStringSubmatch(b.virsh("pool-dumpxml", "default"))[1]
}

func volumesIn(text, element string) []string {
	return regexp.MustCompile(regexp.QuoteMeta(element)).FindAllString(text, -1)
}

// wantVolumes sees that what was given to the guest as a volume is named so in both
// configurations, and nowhere by its path. libvirt's own snapshot-delete leaves no more than
// the uppermost layer in the metadata.
func (c *volumeCase) wantVolumes(b *bed) {
	b.t.Helper()
	texts := map[string]string{"live": b.virsh("dumpxml", "g1"), "persistent": b.virsh("dumpxml", "g1", "--inactive")}
	for _, name := range b.snapshotNames("g1") {
		texts[name] = b.virsh("snapshot-dumpxml", "g1", name)
	}
	for _, d := range c.disks(b.poolDir()) {
		named := "<source file='" + d.Path + "'"
		for of, text := range texts {
			as := strings.Contains(text, "pool='default' volume='"+filepath.Base(d.Path)+"'") || strings.HasPrefix(text, "<domainsnapshot")
			if d.Pool != "" && (strings.Contains(text, named) || !as) {
				b.t.Errorf("%s: volume %s is not named as one:\n%s", of, d.Path, text)
			}
		}
	}
}

// What libvirt cannot tell of a volume is told, with what to do, and concerns its domain alone.
func TestAPoolThatIsStoppedConcernsItsGuestsAlone(t *testing.T) {
	t.Parallel()
	b, dir := newPoolBed(t, "")
	b.writePolicy(strings.Replace(keepThree, "last = 3", "last = 1", 1))
	b.boot(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{Path: dir + "/g1.qcow2", Pool: "default"}}})
	b.boot(guest.Spec{Name: "g2", Disks: []guest.DiskSpec{{Path: dir + "/g2.qcow2", Pool: "default"}}})
	b.boot(guest.Spec{Name: "g3"})
	for range 2 {
		b.waitAll("g1", "g2", "g3")
		b.rotateNow()
	}
	b.destroy("g2")
	b.virsh("pool-destroy", "default")
	b.waitAll("g1", "g3")
	before := []states{b.keptStates("g1"), b.keptStates("g2")}
	r := b.refusedRun()
	b.unchanged("g1", before[0])
	b.unchanged("g2", before[1])
	for _, name := range []string{"g1", "g2"} {
		if d := r.of(name); len(d.Steps) > 0 || len(d.Refused) != 1 || d.Refused[0].Code != "volume-disk" || !strings.Contains(d.Refused[0].Detail, "storage pool default, of which it is volume "+name+".qcow2, is stopped") {
			t.Errorf("%+v", d)
		}
	}
	if d := r.of("g3"); d.Result != "done" || !slices.ContainsFunc(d.Steps, func(s step) bool { return s.Op == "merge" }) {
		t.Errorf("%+v", d)
	}
	if out := b.rotate("doctor", "g2"); !strings.Contains(out.Stdout, "virsh pool-start default") {
		t.Errorf("doctor: %v", out)
	}
	b.virsh("pool-start", "default")
	b.waitAll("g1", "g3")
	b.rotateNow()
	movedPool(b, dir)
	unknownPool(b)
	goneFile(b, dir)
}

// goneFile: a volume that libvirt lists, and whose file is gone.
func goneFile(b *bed, dir string) {
	b.t.Helper()
	must(b.t, os.Rename(dir+"/g2.qcow2", b.path("g2.qcow2")))
	r := b.refusedRun("g2")
	if d := r.of("g2"); len(d.Refused) == 0 || d.Refused[0].Code != "unreadable" || !strings.Contains(d.Refused[0].Path, dir+"/g2.qcow2") {
		b.t.Errorf("%+v", d)
	}
	must(b.t, os.Rename(b.path("g2.qcow2"), dir+"/g2.qcow2"))
}

// movedPool: a pool that leads elsewhere since the guest was started.
func movedPool(b *bed, dir string) {
	b.t.Helper()
	other := b.path("other")
	must(b.t, os.Mkdir(other, 0o755))
	b.qemuImg("create", "-q", "-f", "qcow2", other+"/g1.qcow2", "8M")
	b.qemuImg("create", "-q", "-f", "qcow2", other+"/g2.qcow2", "8M")
	b.setPool(other)
	b.waitAll("g1")
	before := b.keptStates("g1")
	r := b.refusedRun("g1")
	if d := r.Domains[0]; len(d.Refused) == 0 || d.Refused[0].Code != "volume-disk" || !strings.Contains(d.Refused[0].Detail, "the guest runs on "+dir+"/g1.qcow2") {
		b.t.Errorf("%+v", d)
	}
	b.unchanged("g1", before)
	b.setPool(dir)
	b.rotateNow("g1")
}

func (b *bed) setPool(dir string) {
	b.t.Helper()
	b.virsh("pool-destroy", "default")
	b.virsh("pool-undefine", "default")
	b.virsh("pool-define-as", "default", "dir", "--target", dir)
	b.virsh("pool-start", "default")
}

// unknownPool: a volume could be any image, and what it builds on any layer.
func unknownPool(b *bed) {
	b.t.Helper()
	text := b.virsh("dumpxml", "g2", "--inactive")
	text = regexp.MustCompile(`<uuid>.*</uuid>`).ReplaceAllString(text, "")
	text = strings.ReplaceAll(strings.ReplaceAll(text, "<name>g2<", "<name>x<"), "pool='default'", "pool='gone'")
	must(b.t, os.WriteFile(b.path("x.xml"), []byte(text), 0o600))
	b.virsh("define", b.path("x.xml"))
	b.waitAll("g3")
	r := b.refusedRun("g3")
	if d := r.Domains[0]; !slices.ContainsFunc(d.Refused, func(r refusal) bool {
		return r.Code == "unreadable-image" && strings.Contains(r.Detail, "gone/g2.qcow2")
	}) {
		b.t.Errorf("%+v", d)
	}
	b.virsh("undefine", "x")
}

// Another guest that names a layer as a volume is a user of it, whether its pool runs or not.
func TestAVolumeOfAnotherGuestIsAUser(t *testing.T) {
	t.Parallel()
	b, dir := newPoolBed(t, "")
	b.writePolicy(strings.Replace(strings.Replace(keepThree, "last = 3", "last = 1", 1), `"g*"`, `"g1"`, 1))
	b.boot(guest.Spec{Name: "g1", Disks: []guest.DiskSpec{{Path: dir + "/g1.qcow2"}}})
	b.rotations("g1", 1)
	b.define(guest.Spec{Name: "g2", Disks: []guest.DiskSpec{{Path: dir + "/g1.qcow2", Existing: true, Pool: "default"}}})
	for _, state := range []string{"active", "stopped"} {
		if state == "stopped" {
			b.virsh("pool-destroy", "default")
		}
		for range 2 {
			b.waitWrites("g1", 30)
			for _, s := range b.rotateNow("g1").Domains[0].Steps {
				if s.Op == "merge" && s.Base == dir+"/g1.qcow2" {
					t.Errorf("pool %s: %+v", state, s)
				}
			}
		}
	}
	b.virsh("undefine", "g2")
	b.waitWrites("g1", 30)
	if r := b.rotateNow("g1"); !slices.ContainsFunc(r.Domains[0].Steps, func(s step) bool { return s.Op == "merge" && s.Base == dir+"/g1.qcow2" }) {
		t.Errorf("without the other guest: %+v", r.Domains[0])
	}
}

// of is what the report says of a domain.
func (r *report) of(name string) *domainReport {
	for i := range r.Domains {
		if r.Domains[i].Name == name {
			return &r.Domains[i]
		}
	}
	return &domainReport{}
}

// A snapshot that virsh has taken of a guest that is off loses the volume's name: it is in
// the metadata alone, and is put back as soon as the chain is written anew.
func TestAVolumeWhoseNameLibvirtForgot(t *testing.T) {
	t.Parallel()
	c := volumeCase{disks: oneVolume}
	b, dir := newPoolBed(t, "")
	b.writePolicy(c.rule("1"))
	b.boot(guest.Spec{Name: "g1", Disks: c.disks(dir)})
	b.destroy("g1")
	b.virsh("snapshot-create-as", "g1", "s1", "--disk-only", "--diskspec", "vdz,snapshot=no", "--diskspec", "vda,file="+dir+"/web.s1.qcow2")
	for range 3 {
		b.start("g1")
		b.destroy("g1")
		before := b.keptStates("g1")
		b.rotateNow("g1")
		b.unchanged("g1", before)
	}
	c.wantVolumes(b)
	b.start("g1")
	before := b.keptStates("g1")
	names := b.snapshotNames("g1")
	b.virsh("snapshot-delete", "g1", "s1")
	b.wantKept("g1", before, names[1:]...)
	b.rotations("g1", 2)
	c.wantVolumes(b)
	b.wantInOrder("g1", 2)
}

// A run that is killed amid a merge into a volume: the next one takes the job over, which
// libvirt tells by the volume's name.
func TestKillLeavesAJobOnAVolume(t *testing.T) {
	t.Parallel()
	c := volumeCase{disks: oneVolume}
	for name, k := range map[string]struct {
		last      string
		meanwhile func(b *bed)
		adopted   int
	}{
		"active commit, not ready": {"0", func(*bed) {}, 1},
		"active commit, ready":     {"0", func(b *bed) { b.hurry("g1"); b.jobReady("g1", "vda") }, 1},
		"inner commit, over":       {"2", func(b *bed) { b.hurry("g1"); b.jobEnds("g1", "vda") }, 0},
		"somebody pivoted": {"0", func(b *bed) {
			b.hurry("g1")
			b.jobReady("g1", "vda")
			b.virsh("blockjob", "g1", "vda", "--pivot")
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name != "active commit, ready" {
				long(t)
			}
			b, dir := newPoolBed(t, "")
			kept, r := b.inMerge(guest.Spec{Disks: c.disks(dir)}, k.last, slow)
			r.kill()
			k.meanwhile(b)
			b.wantSurvivors("g1", kept)
			b.writePolicy(keep(k.last, ""))
			if n := adoptions(b.recover("g1", int(k.last[0]-'0')+1, "--no-snapshot")); n != k.adopted {
				t.Errorf("%d jobs were taken over, want %d", n, k.adopted)
			}
			c.wantVolumes(b)
			b.restart("g1")
		})
	}
}

func (b *bed) waitAll(names ...string) {
	b.t.Helper()
	for _, name := range names {
		b.waitWrites(name, 30)
	}
}

// refusedRun is a run that refuses something.
func (b *bed) refusedRun(args ...string) (r report) {
	b.t.Helper()
	out := b.rotate(append([]string{"run", "--now", "--output=json"}, args...)...)
	if out.Exit != 3 && out.Exit != 4 {
		b.t.Errorf("a run that had to refuse: %v", out)
	}
	out.decode(b.t, &r)
	return r
}
