package integration_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/bundle"
)

// What this host lacks of a guest, and what the guest wants of the host, is told before anything
// is placed; and what libvirt refuses in the end leaves nothing.
func TestImportTellsWhatSpeaksAgainstIt(t *testing.T) {
	t.Parallel()
	b, there := newBed(t), newBed(t)
	name, images := b.readyForExport(), there.path("images")
	for what, c := range map[string]struct {
		old, text string // in the XML
		say       string
		status    int
		trust     bool // does not help
	}{
		"machine":     {"machine='pc", "machine='pc-q35-99.9' x='", "this host cannot run it", 4, true},
		"network":     {"<memballoon", "<interface type='network'><source network='lan-7'/></interface><memballoon", "network lan-7", 4, true},
		"bridge":      {"<memballoon", "<interface type='bridge'><source bridge='br-77'/></interface><memballoon", "network device br-77", 4, true},
		"PCI device":  {"<memballoon", "<hostdev mode='subsystem' type='pci'><source><address domain='0x0000' bus='0xfe' slot='0x1f' function='0x7'/></source></hostdev><memballoon", "PCI device 0000:fe:1f.7", 4, true},
		"pool":        {"<memballoon", "<disk type='volume' device='disk'><source pool='none' volume='x'/><target dev='vdy'/></disk><memballoon", "storage pool none", 4, true},
		"host device": {"<memballoon", "<hostdev mode='subsystem' type='usb'><source><vendor id='0x1'/><product id='0x2'/></source></hostdev><memballoon", "--trust", 4, false},
		"file":        {"<memballoon", "<disk type='file' device='disk'><source file='/etc/shadow'/><target dev='vdy'/></disk><memballoon", "/etc/shadow", 4, false},
		"options":     {"<memballoon", "<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'/><memballoon", "schemas/domain/qemu", 4, false},
		"define":      {"<vcpu", "<vcpu current='9'", "CPU", 1, true},
		"two disks":   {"<memballoon", "<disk type='file'><source file='x'/><target dev='vda'/></disk><memballoon", "two disks are called vda", 1, true},
	} {
		dir := b.path("out-" + strings.ReplaceAll(what, " ", "-"))
		b.rotate("export", "g1", name, "--all", "-o", dir).wantExit(t, 0)
		rewriteXML(t, dir, c.old, c.text)
		args := []string{"import", dir, "--to", images}
		if c.trust {
			args = append(args, "--trust")
		}
		r := there.rotate(args...)
		if r.Exit != c.status || !strings.Contains(r.Stderr, c.say) {
			t.Errorf("%s: want %d and %q: %v", what, c.status, c.say, r)
		}
		if c.status == 4 {
			if r := there.rotate(append(args, "--dry-run")...); r.Exit != 4 {
				t.Errorf("%s, with --dry-run: %v", what, r)
			}
		}
		wantFiles(t, images, 0)
		if out := strings.TrimSpace(there.virsh("list", "--all", "--name")); out != "" {
			t.Errorf("%s: there is a guest %s", what, out)
		}
	}
}

// rewriteXML changes the guest in an export, with sums that fit, as anybody can.
func rewriteXML(t *testing.T, dir, old, text string) {
	t.Helper()
	path := filepath.Join(dir, "domain.xml")
	xml, err := os.ReadFile(path)
	must(t, err)
	plain := strings.ReplaceAll(string(xml), `"`, "'")
	if !strings.Contains(plain, old) {
		t.Fatalf("no %q in %s", old, plain)
	}
	plain = strings.Replace(plain, old, text, 1)
	must(t, os.WriteFile(path, []byte(plain), 0o600))
	rewriteManifest(t, dir, func(m *bundle.Manifest) { m.Files[0].SHA256, m.Files[0].Size = sum(t, path), int64(len(plain)) })
}

func rewriteManifest(t *testing.T, dir string, change func(*bundle.Manifest)) {
	t.Helper()
	m := manifestOf(t, dir)
	change(&m)
	manifest, err := json.Marshal(m)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, bundle.ManifestName), manifest, 0o600))
	out, err := inDir(dir, "sha256sum", bundle.ManifestName, "vda.qcow2", "vdb.qcow2", "domain.xml")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, bundle.SumsName), out, 0o600))
}

// Neither the name nor the UUID nor, unsaid, the MAC address of a guest that is here is taken over.
func TestImportTakesNothingFromAGuestThatIsHere(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	name, dir, images := b.readyForExport(), b.path("out"), b.path("images")
	b.rotate("export", "g1", name, "--all", "-o", dir).wantExit(t, 0)
	const card = "<interface type='user'><mac address='52:54:00:12:34:56'/></interface><memballoon"
	rewriteXML(t, dir, "<memballoon", card)
	args := []string{"import", dir, "--to", images, "--trust"}
	if r := b.rotate(args...); r.Exit != 4 || !strings.Contains(r.Stderr, "--name") {
		t.Errorf("its own host has a guest of that name: %v", r)
	}
	b.rotate(append(args, "--name", "g2")...).wantExit(t, 0)
	r := b.rotate(append(args, "--name", "g3")...).wantExit(t, 0)
	if !strings.Contains(r.Stdout, "g2 has the MAC address 52:54:00:12:34:56") {
		t.Errorf("two guests have one MAC address: %v", r)
	}
	r = b.rotate(append(args, "--name", "g4", "--new-macs", "--output=json")...).wantExit(t, 0)
	var report struct {
		UUID    string
		NewUUID bool `json:"new-uuid"`
		Notes   []string
	}
	r.decode(t, &report)
	if !report.NewUUID || strings.Contains(fmt.Sprint(report.Notes), "MAC") || strings.Contains(b.virsh("dumpxml", "g4"), "52:54:00:12:34:56") {
		t.Errorf("%+v", report)
	}
	uuids := map[string]bool{}
	for _, guest := range []string{"g1", "g2", "g3", "g4"} {
		uuids[strings.TrimSpace(b.virsh("domuuid", guest))] = true
	}
	if len(uuids) != 4 {
		t.Errorf("four guests have the UUIDs %v", uuids)
	}
	image := filepath.Join(images, "g5-vda.qcow2")
	must(t, os.WriteFile(image, []byte("mine"), 0o600))
	if r := b.rotate(append(args, "--name", "g5")...); r.Exit != 4 || !strings.Contains(r.Stderr, "is there already") {
		t.Errorf("there is an image of that name: %v", r)
	}
	if text, err := os.ReadFile(image); err != nil || string(text) != "mine" {
		t.Errorf("%q, %v", text, err)
	}
	for _, wrong := range []string{"../x", "-x", ".x", "a/b", ""} {
		if r := b.rotate(append(args, "--name", wrong)...); r.Exit != 2 {
			t.Errorf("--name %q: %v", wrong, r)
		}
	}
	b.renamed(name, dir)
	for _, hidden := range []string{".bashrc", "-rf", " x"} {
		rewriteManifest(t, dir, func(m *bundle.Manifest) { m.Domain = hidden })
		if r := b.rotate(args...); r.Exit != 4 || !strings.Contains(r.Stderr, "--name") {
			t.Errorf("a guest called %q: %v", hidden, r)
		}
	}
}

// renamed has only the UUID in use: the guest here has another name since.
func (b *bed) renamed(snapshot, dir string) {
	b.t.Helper()
	b.virsh("snapshot-delete", "g1", snapshot, "--metadata")
	b.virsh("domrename", "g1", "other")
	r := b.rotate("import", dir, "--to", b.path("here-too"), "--trust")
	if r.Exit != 1 && r.Exit != 4 {
		b.t.Errorf("there is no such directory: %v", r)
	}
	must(b.t, os.Mkdir(b.path("here-too"), 0o755))
	r = b.rotate("import", dir, "--to", b.path("here-too"), "--trust").wantExit(b.t, 0)
	if !strings.Contains(r.Stdout, "it has a new UUID: other has the one in the export") {
		b.t.Errorf("%v", r)
	}
}
