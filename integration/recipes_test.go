package integration_test

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// recipes type in what docs/recipes.md says, by the titles there.
var recipes = map[string]func(*recipe){
	"The first week":                            firstWeek,
	"Before an upgrade":                         beforeAnUpgrade,
	"One file back":                             oneFileBack,
	"Guests from Terraform":                     fromTerraform,
	"A guest on another machine":                onAnotherMachine,
	"Every night what has changed":              everyNight,
	"Copies on another host with restic or age": copiesElsewhere,
	"Monitoring":                                monitored,
	"A guest with UEFI and a TPM":               withFirmwareState,
	"A host that is full":                       onAFullHost,
	"From a virsh script":                       fromAScript,
	"A guest with internal snapshots":           withInternalSnapshots,
	"A cluster with Pacemaker":                  inACluster,
	"What is not tried":                         func(*recipe) {},
}

// recipePolicy is that of recipes which say nothing else.
const recipePolicy = `[policy.all]
domains  = ["web-*"]
every    = "1s"
keep     = { last = 7 }
min_free = "0%"`

// A recipe is a section of the page, and the bed on which its commands are typed in.
type recipe struct {
	*bed
	t      *testing.T
	title  string
	blocks []string        // of commands
	tables []string        // of policies, in TOML
	typed  map[string]bool // blocks that were run, or of which it was said why not
	places []string        // of the page, each followed by that of the bed
	env    []string
}

// Each recipe is tried: all its blocks of commands, to the letter but for directories.
func TestTheRecipes(t *testing.T) {
	t.Parallel()
	found := recipesOf(t)
	if len(found) != len(recipes) {
		t.Errorf("%d recipes, want %d", len(found), len(recipes))
	}
	for _, r := range found {
		try := recipes[r.title]
		if try == nil {
			t.Errorf("docs/recipes.md has %q, of which nothing is known here", r.title)
			continue
		}
		t.Run(r.title, func(t *testing.T) {
			t.Parallel()
			r.t = t
			try(r)
			for _, block := range r.blocks {
				if !r.typed[block] {
					t.Errorf("nobody has typed\n%s", block)
				}
			}
		})
	}
}

var (
	shellBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")
	tomlBlock  = regexp.MustCompile("(?ms)^```toml\n(.*?)^```$")
)

func recipesOf(t *testing.T) (found []*recipe) {
	t.Helper()
	text, err := os.ReadFile("../docs/recipes.md")
	must(t, err)
	for _, section := range strings.Split(string(text), "\n## ")[1:] {
		title, body, _ := strings.Cut(section, "\n")
		r := &recipe{title: title, typed: map[string]bool{}}
		for _, m := range shellBlock.FindAllStringSubmatch(body, -1) {
			r.blocks = append(r.blocks, m[1])
		}
		for _, m := range tomlBlock.FindAllStringSubmatch(body, -1) {
			r.tables = append(r.tables, m[1])
		}
		found = append(found, r)
	}
	return found
}

// on says on which bed the recipe is tried, under what policy; "" for none yet.
func (r *recipe) on(b *bed, policy string) {
	r.t.Helper()
	r.bed = b
	if b.policy = b.path("policy.toml"); policy != "" {
		b.writePolicy(policy)
	}
	program, err := binary()
	must(r.t, err)
	for _, dir := range []string{"bin", "srv/backup", "srv/back", "mnt", "here", "prometheus/node-exporter"} {
		must(r.t, os.MkdirAll(b.path(dir), 0o755))
	}
	r.wrap("exec " + program)
	r.places = []string{
		"sftp:backup@nas:/srv/restic", b.path("srv/restic"), "/etc/virt-rotate/", b.path("srv") + "/", "/srv/", b.path("srv") + "/",
		"/run/", b.path("here") + "/", "/mnt", b.path("mnt"), "/var/lib/libvirt/images", b.path("images"),
		"/var/lib/libvirt/swtpm", b.path("lib/swtpm"), "/var/lib/libvirt/qemu/nvram", b.path("lib/qemu/nvram"), "/var/lib/prometheus", b.path("prometheus"),
	}
}

// wrap lets virt-rotate be the program that a command line begins with.
func (r *recipe) wrap(command string) {
	r.t.Helper()
	text := fmt.Sprintf("#!/bin/sh\n%s --policy %s --connect '%s' --state-dir %s \"$@\"\n", command, r.policy, r.host.URI(), r.path("state"))
	must(r.t, os.WriteFile(r.path("bin", "virt-rotate"), []byte(text), 0o755))
}

// boots makes the guest of the recipe, with one disk, and lets it write.
func (r *recipe) boots() {
	r.t.Helper()
	r.boot(guest.Spec{Name: "web-1", Disks: []guest.DiskSpec{{Size: 4 << 20}}})
}

// idles makes a guest as virt-install does, in which nothing runs but firmware.
func (r *recipe) idles(disk string, more ...string) {
	r.t.Helper()
	args := append([]string{"--connect", r.host.URI(), "--print-xml", "1", "--name", "web-1", "--memory", "64", "--virt-type", "qemu", "--osinfo", "linux2022",
		"--import", "--disk", "path=" + disk + ",bus=virtio", "--network", "none", "--graphics", "none", "--noautoconsole"}, more...)
	out, err := r.host.Command(r.t.Context(), "virt-install", args...).Output()
	if err != nil {
		r.t.Fatalf("virt-install: %v: %s", err, out)
	}
	must(r.t, os.WriteFile(r.path("web-1.xml"), out, 0o644))
	r.virsh("define", r.path("web-1.xml"))
	r.virsh("start", "web-1")
}

// block is the one that begins with these words.
func (r *recipe) block(begin string) string {
	r.t.Helper()
	i := slices.IndexFunc(r.blocks, func(b string) bool { return strings.HasPrefix(b, begin) && !r.typed[b] })
	if i < 0 {
		r.t.Fatalf("docs/recipes.md has no such block: %s", begin)
	}
	r.typed[r.blocks[i]] = true
	return r.blocks[i]
}

// leave says why a block is not run.
func (r *recipe) leave(begin, why string) {
	r.t.Helper()
	r.t.Logf("not run: %s: %s", strings.TrimSpace(r.block(begin)), why)
}

// types runs a block, all of whose commands must succeed, and returns what it prints.
func (r *recipe) types(begin string) string {
	r.t.Helper()
	return r.begins(begin).succeeds()
}

func firstWeek(r *recipe) {
	r.on(newDaemonBed(r.t), "")
	r.boots()
	r.wantSaid(r.types("virt-rotate policy init"), "1 policy, no error", "the domain has no snapshot of ours", "snapshot taken")
	r.leave("systemctl enable", "there is no systemd here; make test-packages does it")
	r.wantSaid(r.types("virt-rotate status"), "OK (all)", "snapshot taken", "the present state is kept, too")
	r.checkGuest("web-1")
}

func beforeAnUpgrade(r *recipe) {
	r.on(newDaemonBed(r.t), recipePolicy)
	r.boots()
	r.types("virt-rotate snapshot")
	before, state := r.keptStates("web-1"), r.chain("web-1", "vda")[1].Path
	r.waitWrites("web-1", 40)
	events := r.hearsOf()
	c := r.begins("virt-rotate restore --stop --dry-run")
	c.await("the request to shut down", func() bool { return fileHas(events, "POWERDOWN") })
	r.destroy("web-1") // the guest of the bed does not obey by itself
	r.wantSaid(c.succeeds(), "to             before-upgrade", "it was shut down for this")
	if got := r.chain("web-1", "vda")[1].Path; got != state {
		r.t.Errorf("the guest is on %s, want %s", got, state)
	}
	r.waitWrites("web-1", 10)
	r.holds(before, "before-upgrade")
	if n := len(r.snapshotNames("web-1")); n != 2 {
		r.t.Errorf("%d snapshots, want 2: the present is kept", n)
	}
	r.types("virt-rotate unpin")
	if names := r.snapshotNames("web-1"); len(names) != 1 || names[0] == "before-upgrade" {
		r.t.Errorf("snapshots %q: before-upgrade was to go, and no other", names)
	}
	r.checkGuest("web-1")
}

// hearsOf lists QEMU's events of the guest in a file, from now on.
func (r *recipe) hearsOf() (file string) {
	r.t.Helper()
	file = r.path("events")
	out, err := os.Create(file)
	must(r.t, err)
	defer out.Close()
	cmd := r.host.Command(r.t.Context(), "stdbuf", "-oL", "virsh", "-c", r.host.URI(), "qemu-monitor-event", "web-1", "--loop")
	cmd.Stdout = out
	must(r.t, cmd.Start())
	r.t.Cleanup(func() { _ = cmd.Wait() }) // the context ends it
	r.await("events", func() bool {
		r.virsh("suspend", "web-1")
		r.virsh("resume", "web-1")
		return fileHas(file, "RESUME")
	})
	return file
}

func fileHas(file, text string) bool {
	b, err := os.ReadFile(file)
	return err == nil && strings.Contains(string(b), text)
}

// filesAt is where the only partition of a disk with files begins.
const filesAt = 2048 * 512

func oneFileBack(r *recipe) {
	r.on(newDaemonBed(r.t), recipePolicy)
	disk := r.path("images", "web-1.qcow2")
	const text = "/dev/vda1 / ext4 defaults 0 1\n"
	must(r.t, os.MkdirAll(r.path("files/etc"), 0o755))
	must(r.t, os.WriteFile(r.path("files/etc/fstab"), []byte(text), 0o644))
	r.command("truncate -s 12M raw; echo 2048,,L | sfdisk -q raw; mke2fs -q -t ext4 -d files -E offset=%d raw 10M; qemu-img convert -f raw -O qcow2 raw %s; rm raw", filesAt, disk)
	r.idles(disk)
	r.rotate("run", "--now").wantExit(r.t, 0)
	r.destroy("web-1")
	(&filesBed{r.bed, "web-1", filesAt}).inside("rm /etc/fstab")
	r.virsh("start", "web-1")
	r.leave("virt-rotate cp web-1@", "it boots a guest of its own, which takes half a minute without KVM: TestFilesByLibguestfs does it")
	r.t.Cleanup(func() { _ = exec.Command("umount", "-l", r.path("mnt")).Run() }) // after a failure
	r.wantSaid(r.types("virt-rotate ls"), "fstab", "D /etc/fstab")
	if got, err := os.ReadFile(r.path("srv/back/fstab")); err != nil || string(got) != text {
		r.t.Errorf("%q, %v", got, err)
	}
	mounted := r.begins("virt-rotate mount")
	mounted.await("the file", func() bool { _, err := os.Stat(r.path("mnt/etc/fstab")); return err == nil })
	r.types("cp -a")
	mounted.succeeds()
	if got, err := os.ReadFile(r.path("srv/back/fstab.2")); err != nil || string(got) != text {
		r.t.Errorf("%q, %v", got, err)
	}
}

// command runs what the test needs, in the directory of the bed.
func (r *recipe) command(format string, args ...any) {
	r.t.Helper()
	cmd := r.host.Command(r.t.Context(), "sh", "-euc", fmt.Sprintf(format, args...))
	cmd.Dir = r.path()
	cmd.Env = append(cmd.Env, "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("%v: %v: %s", cmd.Args, err, out)
	}
}

func fromTerraform(r *recipe) {
	b, dir := newPoolBed(r.t, "")
	r.on(b, "[metadata]\nallow = true\n[policy.gold]\nevery = \"1s\"\nkeep = { last = 3 }\nmin_free = \"0%\"")
	r.boot(guest.Spec{Name: "web-1", Disks: []guest.DiskSpec{{Path: dir + "/web-1.qcow2", Pool: "default"}}})
	r.wantSaid(r.types("virsh pool-autostart"), "gold")
	r.waitWrites("web-1", 20)
	r.rotate("run", "--now").wantExit(r.t, 0)
	if n := len(r.snapshotNames("web-1")); n != 2 {
		r.t.Errorf("%d snapshots, want 2", n)
	}
	if out := r.types("virsh metadata"); strings.Contains(out, "web-1.gold-") {
		r.t.Errorf("an overlay is left: %s", out)
	}
	if names := r.snapshotNames("web-1"); len(names) != 0 {
		r.t.Errorf("there are still %q", names)
	}
	r.wantSaid(r.virsh("dumpxml", "web-1", "--inactive"), "pool='default' volume='web-1.qcow2'")
	r.checkGuest("web-1")
}

// keepsFiles makes a guest in which nothing runs, with something on its disk.
func (r *recipe) keepsFiles() (disk string) {
	r.t.Helper()
	disk = r.path("images", "web-1.qcow2")
	r.command("qemu-img create -q -f qcow2 %s 16M; qemu-io -f qcow2 -c 'write -q -P 7 1M 3M' %[1]s", disk)
	r.idles(disk)
	return disk
}

// stateNow is what the newest snapshot has.
func (r *recipe) stateNow() string {
	r.t.Helper()
	names := r.snapshotNames("web-1")
	state := r.stateOf("web-1", names[len(names)-1], "vda")
	return r.guestSum(state, formatOfLayer(r.bed, "web-1", "vda", state))
}

func onAnotherMachine(r *recipe) {
	there, pool := newPoolBed(r.t, "")
	r.on(newDaemonBed(r.t), recipePolicy)
	r.keepsFiles()
	r.types("virt-rotate run --now")
	want := r.stateNow()
	r.destroy("web-1")
	must(r.t, os.Rename(r.path("images"), r.path("gone"))) // another machine has no layers
	r.onWithFilesOf(there, r.bed)
	r.wantSaid(r.types("virt-rotate import --dry-run"), "placed", "defined    web-1")
	if s := there.domState("web-1"); s != "running" {
		r.t.Errorf("the guest is %s there", s)
	}
	image := pool + "/web-1-vda.qcow2"
	r.wantSaid(there.virsh("domblklist", "web-1"), image)
	r.wantSaid(there.virsh("vol-list", "default"), "web-1-vda.qcow2")
	there.destroy("web-1")
	if got := there.guestSum(image, "qcow2"); got != want {
		r.t.Errorf("it has arrived as another state: %s, want %s", got, want)
	}
}

func everyNight(r *recipe) {
	b, pool := newPoolBed(r.t, "")
	r.on(b, recipePolicy)
	r.keepsFiles()
	r.types("virt-rotate run --now")
	r.destroy("web-1")
	r.command("qemu-io -f qcow2 -c 'write -q -P 9 2M 1M' %s", r.disk("web-1", "vda").Path)
	r.wantSaid(r.types("virt-rotate run --now"), "changes, by the maps", "2 exports")
	want := r.stateNow()
	r.types("virt-rotate import")
	if got := r.guestSum(pool+"/web-1-tuesday-vda.qcow2", "qcow2"); got != want {
		r.t.Errorf("what comes back is another state: %s, want %s", got, want)
	}
}

func copiesElsewhere(r *recipe) {
	here := newDaemonBed(r.t)
	there, pool := newPoolBed(r.t, "")
	r.on(here, recipePolicy)
	r.keepsFiles()
	for _, dir := range []string{"srv/safe", "srv/out"} {
		must(r.t, os.MkdirAll(r.path(dir), 0o755))
	}
	r.env = []string{"RESTIC_CACHE_DIR=" + r.path("srv/cache")}
	must(r.t, os.WriteFile(r.path("srv/restic.password"), []byte("secret\n"), 0o600))
	r.command("RESTIC_PASSWORD_FILE=srv/restic.password restic -r srv/restic init")
	r.types("export RESTIC_REPOSITORY")
	want := r.stateNow()
	r.onWithFilesOf(there, here)
	r.wantSaid(r.types("export RESTIC_REPOSITORY"), "what the snapshot had", "defined    web-1")
	r.on(here, recipePolicy)
	r.types("age-keygen")
	r.types("set -o pipefail")
	r.types("export RESTIC_REPOSITORY")
	r.onWithFilesOf(there, here)
	r.wantSaid(r.types("set -o pipefail"), "what the snapshot had", "defined    web-1-age")
	for _, image := range []string{"web-1-vda.qcow2", "web-1-age-vda.qcow2"} {
		if got := r.guestSum(pool+"/"+image, "qcow2"); got != want {
			r.t.Errorf("%s is another state: %s, want %s", image, got, want)
		}
	}
	if got := sum(r.t, here.path("srv/back/web-1-vda.raw")); got != want {
		r.t.Errorf("what was streamed comes back as another state: %s, want %s", got, want)
	}
}

// onWithFilesOf has the recipe go on at another host, which has the files of one of before.
func (r *recipe) onWithFilesOf(b, before *bed) {
	r.t.Helper()
	r.on(b, recipePolicy)
	r.places = append([]string{"sftp:backup@nas:/srv/restic", before.path("srv/restic"), "/etc/virt-rotate/", before.path("srv") + "/", "/srv/", before.path("srv") + "/"}, r.places...)
}

func monitored(r *recipe) {
	r.on(newDaemonBed(r.t), recipePolicy)
	r.boots()
	r.rotate("run", "--now").wantExit(r.t, 0)
	r.wantSaid(r.types("virt-rotate check"), "VIRT-ROTATE OK")
	metrics, err := os.ReadFile(r.path("prometheus/node-exporter/virt-rotate.prom"))
	must(r.t, err)
	r.wantSaid(string(metrics), `virt_rotate_domain_check_level{domain="web-1"} 0`)
	for _, table := range r.tables {
		r.writePolicy(strings.NewReplacer(r.places...).Replace(table) + recipePolicy)
		r.rotate("policy", "check").wantExit(r.t, 0)
	}
}

func onAFullHost(r *recipe) {
	place := shortDir(r.t)
	loop, err := guest.NewLoopMount(r.t.Context(), place+"/loop", "ext4", place+"/d", 40<<20) // before libvirtd, which has its own mounts
	must(r.t, err)
	b := newDaemonBed(r.t)
	b.loops = append(b.loops, loop)
	r.on(b, strings.Replace(recipePolicy, `"0%"`, `"10%"`, 1))
	r.boot(guest.Spec{Name: "web-1", Disks: []guest.DiskSpec{{Path: loop.Dir + "/web-1.qcow2", Size: 4 << 20}}})
	for range 3 {
		r.rotate("run", "--now").wantExit(r.t, 0)
		r.waitWrites("web-1", 20)
	}
	r.virsh("suspend", "web-1")
	r.command("dd if=/dev/zero of=%s/ballast bs=64k count=$(( ($(stat -f -c '%%a*%%S' %[1]s) - (4 << 20)) / 65536 )) status=none; sync -f %[1]s", loop.Dir)
	if out := r.rotate("run", "--now").wantExit(r.t, 4); !strings.Contains(out.Stdout, "no-space") {
		r.t.Errorf("%v", out)
	}
	r.wantSaid(r.script("set +e\n"+r.block("virt-rotate doctor")+"true").succeeds(), "no-space", "remedy") // doctor's exit status tells of it
	before := r.keptStates("web-1")
	r.writePolicy(r.tables[0])
	r.types("virt-rotate plan --no-snapshot")
	r.types("virsh resume")
	r.waitWrites("web-1", 10)
	r.holds(before, "all-")
	if names := r.snapshotNames("web-1"); len(names) != 1 {
		r.t.Errorf("snapshots %q, want one", names)
	}
	r.checkGuest("web-1")
}

func fromAScript(r *recipe) {
	r.on(newDaemonBed(r.t), recipePolicy)
	r.boots()
	r.virsh("snapshot-create-as", "web-1", "left", "--disk-only", "--no-metadata", "--diskspec", "vda,file="+r.path("images/left.qcow2"))
	r.rotate("plan", "web-1").wantExit(r.t, 0) // it is the disk that the guest was given
	r.types("virsh blockcommit")
	for _, name := range []string{"script-1", "script-2"} {
		r.virsh("snapshot-create-as", "web-1", name, "--disk-only")
		r.waitWrites("web-1", 20)
	}
	r.wantSaid(r.types("virsh snapshot-list"), "script-2")
	r.waitWrites("web-1", 20)
	before := r.keptStates("web-1")
	r.types("virsh snapshot-delete")
	r.holds(before, "script-2")
	r.rotate("run", "--now").wantExit(r.t, 0)
	r.holds(before, "script-2")
	r.holds(before, "all-")
	r.checkGuest("web-1")
}

func withInternalSnapshots(r *recipe) {
	r.on(newDaemonBed(r.t), strings.Replace(recipePolicy, "last = 7", "last = 1", 1))
	disk := r.path("images/web-1.qcow2")
	io := func(command string) {
		run(r.t, r.path("images"), "qemu-io -f qcow2 -c '"+command+"' web-1.qcow2 >/dev/null")
	}
	run(r.t, r.path("images"), "qemu-img create -q -f qcow2 web-1.qcow2 4M")
	io("write -P 1 0 1M")
	r.idles(disk)
	r.virsh("snapshot-create-as", "web-1", "before") // with its memory
	r.destroy("web-1")
	io("write -P 2 1M 1M")
	r.virsh("snapshot-create-as", "web-1", "after")
	r.virsh("snapshot-revert", "web-1", "before", "--force")
	r.destroy("web-1")
	io("write -P 3 512k 1M")
	r.virsh("snapshot-create-as", "web-1", "branch")
	r.wantSaid(r.rotate("plan", "web-1").String(), "virt-rotate adopt --internal web-1")
	want := internalStates(r.t, disk)
	r.wantSaid(r.types("virsh snapshot-list web-1 --tree\nvirt-rotate adopt --internal --dry-run"), "web-1.branch.qcow2 on web-1.before.qcow2", "web-1.gen1.qcow2")
	r.wantSaid(r.types("virt-rotate adopt --internal web-1\n"), "+- after", "web-1.before.memory")
	r.rotate("run", "--now", "web-1").wantExit(r.t, 0)
	for name, id := range map[string]string{"before": "1", "after": "2", "branch": "3"} {
		if stateSHA(r.t, r.path("images/web-1."+name+".qcow2"), "") != want[id] {
			r.t.Errorf("layer %s does not hold the state of the snapshot", name)
		}
	}
	r.types("rm ")
	r.rotate("run", "--now", "web-1").wantExit(r.t, 0)
	if n := len(r.snapshotNames("web-1")); n != 4 {
		r.t.Errorf("%d snapshots, want 3 and 1", n)
	}
	r.destroy("web-1")
	r.rotate("restore", "web-1", "after").wantExit(r.t, 0)
	if d := r.disk("web-1", "vda"); stateSHA(r.t, d.Path, "") != want["2"] {
		r.t.Error("a restore to an adopted snapshot has another state")
	}
}
