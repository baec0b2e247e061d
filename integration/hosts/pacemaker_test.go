package hosts_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Actions of an OCF agent end with these; see the Open Cluster Framework's resource agent API.
const (
	ocfSuccess    = 0
	ocfGeneric    = 1
	ocfConfigured = 6
	ocfNotRunning = 7
)

// ocfRoot is where resource-agents is installed.
const ocfRoot = "/usr/lib/ocf"

// clusterXML is what crm_mon tells, the only thing that our agent asks the cluster, which is not there.
// VirtualDomain warns that there is no crm_resource.
const clusterXML = `#!/bin/sh
cat <<'EOF'
<pacemaker-result api-version="2.25" request="crm_mon -1 --output-as=xml">
  <summary>
    <cluster_options stonith-enabled="%t" symmetric-cluster="true" no-quorum-policy="stop" maintenance-mode="false"/>
  </summary>
  <nodes>
    <node name="host1" id="1" online="%t" standby="false" standby_onfail="false" maintenance="false" pending="false" unclean="%t" health="green" feature_set="3.16.2" shutdown="false" expected_up="true" is_dc="false" resources_running="0" type="member"/>
    <node name="host2" id="2" online="true" standby="false" standby_onfail="false" maintenance="false" pending="false" unclean="false" health="green" feature_set="3.16.2" shutdown="false" expected_up="true" is_dc="true" resources_running="1" type="member"/>
  </nodes>
</pacemaker-result>
EOF
`

// A cluster is a bed whose hosts start the guest by the agent of examples/pacemaker and the field's
// VirtualDomain, with the environment that Pacemaker gives them.
type cluster struct {
	*bed
	config string // as the hosts see it
	dir    string // of what is not on the storage
	agents string // examples/pacemaker
}

// newCluster makes the guest, whose definition is on the storage, and on no host. Node 1 starts it.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	if _, err := os.Stat(filepath.Join(ocfRoot, "resource.d/heartbeat/VirtualDomain")); err != nil {
		t.Fatal("integration tests need resource-agents: ", err)
	}
	agents, err := filepath.Abs("../../examples/pacemaker")
	must(t, err)
	b := newBed(t, false, 3)
	c := &cluster{bed: b, config: "/srv/share/pacemaker/web.xml", dir: filepath.Dir(b.policy), agents: agents}
	must(t, os.Mkdir(b.Path("pacemaker"), 0o700))
	c.hooks(true)
	c.cluster(true, true, false)
	b.on(1, "qemu-img", "create", "-q", "-f", "qcow2", "/srv/share/img/web.qcow2", "16M")
	must(t, b.Host(1).Define("web", "/srv/share/img/web.qcow2"))
	c.writeConfig(b.virsh(1, "dumpxml", "--inactive", "web"))
	b.virsh(1, "undefine", "web")
	for n := 1; n <= 2; n++ {
		c.ready(n)
	}
	c.does(ocfNotRunning, 1, "monitor", 0)
	c.does(ocfSuccess, 1, "start", 0)
	b.write(1, 0x11, 0)
	return c
}

// ready gives a host that was booted what its system has, and virt-rotate with its options.
func (c *cluster) ready(n int) {
	c.Helper()
	c.on(n, "mkdir", "-p", "/run/resource-agents")
	program, err := binary()
	must(c.T, err)
	text := fmt.Sprintf("#!/bin/sh\nexec %s --policy %s --state-dir %s \"$@\"\n", program, c.policy, c.Host(n).State())
	must(c.T, os.WriteFile(filepath.Join(c.dir, fmt.Sprint("virt-rotate", n)), []byte(text), 0o700))
}

// hooks says whether runs write the guest's definition to the storage.
func (c *cluster) hooks(on bool) {
	c.Helper()
	text := fmt.Sprintf(policyText, 3)
	if on {
		hook := fmt.Sprintf("[%q, \"/srv/share/pacemaker\"]", filepath.Join(c.agents, "virt-rotate-save-config"))
		text += fmt.Sprintf("[policy.all.hooks]\nafter = %s\nfailed = %s\n", hook, hook)
	}
	must(c.T, os.WriteFile(c.policy, []byte(text), 0o600))
}

// cluster says what crm_mon tells of fencing, and of host1.
func (c *cluster) cluster(fencing, online, unclean bool) {
	c.Helper()
	must(c.T, os.MkdirAll(filepath.Join(c.dir, "bin"), 0o755))
	// It needs xmllint, without which VirtualDomain would write no definition, whatever it is told.
	must(c.T, os.WriteFile(filepath.Join(c.dir, "bin/virt-xml-validate"), []byte("#!/bin/sh\n"), 0o700))
	must(c.T, os.WriteFile(filepath.Join(c.dir, "bin/crm_mon"), fmt.Appendf(nil, clusterXML, fencing, online, unclean), 0o700))
}

// does lets the agent do something on a node, and wants that of it, and these words. An interval, in
// seconds, is that of a monitor; 0 is a probe.
func (c *cluster) does(want, n int, action string, interval int, words ...string) {
	c.Helper()
	out, got := c.acts(n, action, fmt.Sprint("OCF_RESKEY_CRM_meta_interval=", interval*1000))
	if got != want {
		c.Fatalf("host%d: %s: %d, want %d\n%s", n, action, got, want, out)
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			c.Errorf("host%d: %s does not say %q:\n%s", n, action, w, out)
		}
	}
}

func (c *cluster) acts(n int, action string, more ...string) (string, int) {
	c.Helper()
	args := append([]string{"env", "OCF_ROOT=" + ocfRoot, "OCF_RESOURCE_INSTANCE=web", "OCF_RESOURCE_TYPE=virt-rotate-domain", "OCF_RESOURCE_PROVIDER=virt-rotate",
		"OCF_RESKEY_config=" + c.config, "OCF_RESKEY_hypervisor=qemu:///system", "OCF_RESKEY_CRM_meta_timeout=40000",
		"VIRT_ROTATE=" + filepath.Join(c.dir, fmt.Sprint("virt-rotate", n)), "SAVE_CONFIG=" + filepath.Join(c.agents, "virt-rotate-save-config"),
		"PATH=" + filepath.Join(c.dir, "bin") + ":" + os.Getenv("PATH")}, more...)
	out, err := c.Host(n).Command(append(args, filepath.Join(c.agents, "virt-rotate-domain"), action)...).CombinedOutput()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return string(out), exit.ExitCode()
	case err != nil:
		c.Fatal(err)
	}
	return string(out), 0
}

func (c *cluster) readConfig() string {
	c.Helper()
	text, err := os.ReadFile(c.Path("pacemaker/web.xml"))
	must(c.T, err)
	return string(text)
}

func (c *cluster) writeConfig(xml string) {
	c.Helper()
	must(c.T, os.WriteFile(c.Path("pacemaker/web.xml"), []byte(xml), 0o600))
}

// bytesOf are checksums of the images of the storage, as they are on the disk.
func (c *cluster) bytesOf() map[string]string {
	c.Helper()
	sums := map[string]string{}
	for name := range strings.SplitSeq(c.files(), "\n") {
		data, err := os.ReadFile(name)
		must(c.T, err)
		sums[name] = fmt.Sprintf("%x", sha256.Sum256(data))
	}
	return sums
}

func (c *cluster) active(n int) string {
	c.Helper()
	path, err := c.Host(n).Active("web")
	must(c.T, err)
	return path
}

// holds wants the guest to run on a host from that layer, with each rotation's MiB in it.
func (c *cluster) holds(n int, layer string, patterns ...byte) {
	c.Helper()
	if got := c.active(n); got != layer {
		c.Errorf("host%d: the guest writes to %s, want %s", n, got, layer)
	}
	for i, p := range patterns {
		out, err := c.Host(n).Run("qemu-io", "-U", "-r", "-f", "qcow2", "-c", fmt.Sprintf("read -P %d %dM 1M", p, i), layer)
		if err != nil || strings.Contains(out, "fail") {
			c.Errorf("host%d: MiB %d is not what was written: %v %s", n, i, err, out)
		}
	}
}

// same wants each of these images to be what it was, but for the layer that a guest writes to.
func (c *cluster) same(before map[string]string, but string) {
	c.Helper()
	now := c.bytesOf()
	for name, sum := range before {
		if filepath.Base(name) != filepath.Base(but) && now[name] != sum {
			c.Errorf("%s was changed", name)
		}
	}
}

// refuses wants a node to start nothing, for that reason, to leave no definition behind, and to
// change no image.
func (c *cluster) refuses(n int, reason string) {
	c.Helper()
	images, config := c.bytesOf(), c.readConfig()
	c.does(ocfGeneric, n, "start", 0, "ocf-exit-reason", reason)
	if list := c.virsh(n, "list", "--all", "--name"); strings.Contains(list, "web") {
		c.Errorf("host%d has the guest: %s", n, list)
	}
	c.same(images, "")
	if c.readConfig() != config {
		c.Error("the definition on the storage was changed")
	}
}

// Node 1 loses power after rotations; node 2 starts the guest with all that it has written, once
// fencing has confirmed that. Node 1 comes back, and gets the guest back in order.
func TestPacemakerStartsAGuestFromItsNewestLayer(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	old := c.readConfig()
	c.rotations(1, 2)
	c.write(1, 0x44, 3)
	layer := c.active(1)
	if now := c.readConfig(); now == old || !strings.Contains(now, layer) {
		t.Fatalf("the hook has not written %s to the definition:\n%s", layer, now)
	}
	must(t, c.Host(1).Kill())
	images := c.bytesOf()

	c.cluster(true, false, true) // lost, and not yet fenced
	c.refuses(2, "--down host1")
	c.cluster(false, false, false) // nobody fences
	c.refuses(2, "--down host1")
	c.cluster(true, false, false)
	c.does(ocfSuccess, 2, "start", 0)
	c.holds(2, layer, 0x11, 0x31, 0x32, 0x44)
	c.same(images, layer)
	c.write(2, 0x55, 4)
	time.Sleep(1200 * time.Millisecond)
	c.want(0, 2, "run --now")
	layer = c.active(2)

	config := c.readConfig()
	must(t, c.Host(1).Boot(false))
	c.ready(1)
	c.cluster(true, true, false)
	c.does(ocfNotRunning, 1, "monitor", 0)
	c.want(4, 1, "run --now", "other-host")
	if c.readConfig() != config {
		t.Error("a node that came back has written its old definition to the storage")
	}
	c.does(ocfSuccess, 2, "stop", 0)
	c.does(ocfSuccess, 1, "start", 0) // nobody is down
	c.holds(1, layer, 0x11, 0x31, 0x32, 0x44, 0x55)
	c.does(ocfSuccess, 1, "monitor", 10)
	c.want(0, 1, "run --now")
}

// The hook has not run since snapshots were taken: no node starts the guest from the file, neither one
// that was told of the snapshots, nor after a snapshot that nobody was told of.
func TestPacemakerStartsNoGuestFromAnOldLayer(t *testing.T) {
	t.Parallel()
	for _, told := range []bool{true, false} {
		t.Run(fmt.Sprintf("told %t", told), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			c.want(0, 1, "run --now")
			c.hooks(false)
			if told {
				c.rotations(1, 1)
			} else {
				c.virsh(1, "snapshot-create-as", "web", "late", "--disk-only", "--atomic", "--diskspec", "vda,file=/srv/share/img/web.late")
			}
			c.write(1, 0x22, 1)
			layer := c.active(1)
			must(t, c.Host(1).Kill())
			c.cluster(true, false, false)
			c.refuses(2, "old one")

			must(t, c.Host(1).Boot(false)) // it would be no better there
			c.ready(1)
			c.cluster(true, true, false)
			c.does(ocfGeneric, 1, "start", 0, "old one")
			if got := c.active(1); got != layer {
				t.Errorf("the newest definition is gone from host1, where the guest is on %s now, want %s", got, layer)
			}
			must(t, c.Host(1).Kill())
			c.cluster(true, false, false)
			c.writeConfig(byHand(c.readConfig(), layer))
			c.does(ocfSuccess, 2, "start", 0)
			c.holds(2, layer, 0x11, 0x22)
		})
	}
}

var (
	below  = regexp.MustCompile(`(?s)<backingStore.*</backingStore>`)
	source = regexp.MustCompile(`<source file='[^']*'[^>]*>`)
)

// byHand is what the recipe says to do with an old definition.
func byHand(xml, layer string) string {
	return source.ReplaceAllString(below.ReplaceAllString(xml, ""), "<source file='"+layer+"'/>")
}

// What was done by hand reaches the storage by the monitor of the node on which the guest runs.
func TestPacemakersMonitorWritesTheDefinition(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.virsh(1, "snapshot-create-as", "web", "hand", "--disk-only", "--atomic", "--diskspec", "vda,file=/srv/share/img/web.hand")
	if strings.Contains(c.readConfig(), "web.hand") {
		t.Fatal("the definition was written before")
	}
	c.does(ocfSuccess, 1, "monitor", 10)
	if !strings.Contains(c.readConfig(), "web.hand") {
		t.Error("the definition was not written")
	}
}

// Pacemaker moves a guest that runs to the other node and back: with its snapshots, and the file follows. What fails leaves
// it where it was.
func TestPacemakerMovesAGuestWithItsSnapshots(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	address, err := c.Link()
	must(t, err)
	c.rotations(1, 2)
	c.rotate(2, "run")
	to := func(address string) []string {
		return []string{"OCF_RESKEY_CRM_meta_migrate_target=" + address, "OCF_RESKEY_migration_transport=tcp", "OCF_RESKEY_migrateuri=tcp://%n", "OCF_RESKEY_migrate_options=--unsafe --auto-converge"}
	}
	before := c.states(1)
	if out, got := c.acts(1, "migrate_to", to("10.99.0.77")...); got != ocfGeneric || !strings.Contains(out, "is not moved to 10.99.0.77") {
		t.Errorf("%d %s", got, out)
	}
	c.isOn(1, true, before)
	for i, other := range []string{address, "10.99.0.1"} {
		from, at := i+1, 2-i
		if out, got := c.acts(from, "migrate_to", to(other)...); got != ocfSuccess {
			t.Fatalf("host%d: %d %s", from, got, out)
		}
		c.does(ocfSuccess, at, "migrate_from", 0)
		c.isOn(at, true, before)
		c.does(ocfSuccess, at, "monitor", 10)
		c.does(ocfNotRunning, from, "monitor", 0)
		if !strings.Contains(c.readConfig(), c.active(at)) {
			t.Errorf("the file does not name what the guest writes to on host%d", at)
		}
		c.want(0, at, "run")
		c.want(0, from, "run")
		before = c.states(at)
	}
	if out, got := c.acts(2, "migrate_to", to(address)...); got != ocfGeneric || !strings.Contains(out, "does not run here") {
		t.Errorf("%d %s", got, out)
	}
}

// Parameters that bypass the check are refused. A guest whose file cannot be
// read any more, since the storage is gone, is not said to be off while it runs.
func TestPacemakersAgentRefusesWhatIsNotSafe(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	for _, parameter := range []string{"snapshot=/srv/share", "backingfile=/srv/share/img/web.qcow2", "save_config_on_stop=true", "sync_config_on_stop=1"} {
		if out, got := c.acts(2, "start", "OCF_RESKEY_"+parameter); got != ocfConfigured {
			t.Errorf("%s: %d\n%s", parameter, got, out)
		}
	}
	if out, got := c.acts(1, "meta-data"); got != ocfSuccess || !strings.Contains(out, "migrate_to") || !strings.Contains(out, `"virt-rotate-domain"`) {
		t.Errorf("meta-data: %d\n%s", got, out)
	}
	must(t, os.Remove(c.Path("pacemaker/web.xml")))
	c.does(ocfSuccess, 1, "monitor", 0)
	c.does(ocfSuccess, 1, "stop", 0)
	if list := c.virsh(1, "list", "--name"); strings.Contains(list, "web") {
		t.Error("the agent says that a guest is off which runs")
	}
}
