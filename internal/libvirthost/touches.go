package libvirthost

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
)

// A Touch is what a configuration has of the host that it is defined on.
type Touch struct {
	Where   string `json:"where"`   // devices/interface
	What    string `json:"what"`    // network default
	Consent bool   `json:"consent"` // it is more than a guest needs: somebody has to say that it is wanted
}

// touchesOf goes through a configuration, and lists what it knows to reach out of the guest and
// all that it does not know: what a newer libvirt has added may be anything.
func touchesOf(text string, i Import) ([]Touch, error) {
	root, err := parseDomain(text)
	if err != nil {
		return nil, err
	}
	t := &toucher{Import: i}
	t.element(root, nil)
	return t.found, nil
}

type toucher struct {
	Import
	found []Touch
}

func (t *toucher) note(path []string, consent bool, format string, args ...any) {
	touch := Touch{strings.Join(path, "/"), fmt.Sprintf(format, args...), consent}
	if touch.Where == "" {
		touch.Where = "domain"
	}
	if !slices.Contains(t.found, touch) {
		t.found = append(t.found, touch)
	}
}

// What a guest may have by itself, as libvirt's documentation of its XML lists it.
var (
	ownElements = words(`name uuid genid title description metadata memory currentMemory maxMemory memtune memoryBacking
		vcpu vcpus iothreads iothreadids defaultiothread cputune numatune resource os features cpu clock on_poweroff on_reboot
		on_crash on_lockfailure pm perf devices seclabel sysinfo blkiotune throttlegroups`)
	ownDevices = words(`emulator disk controller interface input graphics video sound audio console serial parallel channel
		watchdog memballoon rng tpm vsock panic memory hub redirdev redirfilter smartcard iommu crypto nvram`)
)

// pathAttributes name files, directories and devices of the host, also by relative names: QEMU
// runs in a directory of its own. In namesOfGuests they mean something in the guest.
var (
	pathAttributes = words("path file dev dir script rendernode socket template vhost tap logFile tty")
	namesOfGuests  = words("target boot")
	pathElements   = words("kernel initrd dtb loader nvram emulator bootloader table shim init path")
	freeTexts      = words("name title description cmdline partition entry")
)

// kindsOfDevices are the types of devices that reach no further than libvirt itself.
var kindsOfDevices = map[string][]string{
	"interface": words("network bridge user"),
	"serial":    words("pty null vc spicevmc spiceport dbus qemu-vdagent unix"),
	"graphics":  words("vnc spice dbus egl-headless"),
	"redirdev":  words("spicevmc"),
	"smartcard": words("spicevmc"),
	"audio":     words("none spice dbus"),
	"input":     words("mouse tablet keyboard"),
	"rng":       words("random builtin"),
	"tpm":       words("emulator"),
}

func words(text string) []string { return strings.Fields(text) }

func (t *toucher) element(n *node, path []string) {
	if n.space != "" || n.name.Space != "" {
		t.note(append(slices.Clone(path), written(n.name)), true, "settings in namespace %s", cmp.Or(n.space, n.name.Space))
		return
	}
	if !t.known(n, path) || t.foreignDisk(n, path) {
		return
	}
	t.attributes(n, path)
	t.texts(n, path)
	t.device(n, path)
	for _, c := range n.children {
		if c.name.Local != "" && (len(path) > 0 || c.name.Local != "metadata") {
			t.element(c, append(slices.Clone(path), c.name.Local))
		}
	}
}

// known tells whether a guest may have an element by itself, and notes it where not.
func (t *toucher) known(n *node, path []string) bool {
	ok := true
	switch {
	case len(path) == 1:
		ok = slices.Contains(ownElements, path[0])
	case len(path) == 2 && path[0] == "devices":
		ok = slices.Contains(ownDevices, path[1])
	}
	if !ok {
		t.note(path, true, "%s", inLine(n))
	}
	return ok
}

// inLine is an element in one line, as far as it fits.
func inLine(n *node) string {
	var b strings.Builder
	n.write(&b)
	text := strings.Join(strings.Fields(b.String()), " ")
	const most = 160
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

func (t *toucher) attributes(n *node, path []string) {
	for _, a := range n.attrs {
		if _, declares := declared(a); declares {
			continue
		}
		if a.Name.Space != "" {
			t.note(path, true, "attribute %s=%q", written(a.Name), a.Value)
			continue
		}
		named := slices.Contains(pathAttributes, a.Name.Local) && !slices.Contains(namesOfGuests, n.name.Local)
		if !strings.HasPrefix(a.Value, "/") && !named || a.Value == "" || t.placed(n, path, a) || t.allowedTemplate(n, path, a) {
			continue
		}
		t.note(path, true, "%s %s", a.Name.Local, a.Value)
	}
}

// placed tells whether an attribute names an image that was placed for this guest.
func (t *toucher) placed(n *node, path []string, a xml.Attr) bool {
	if strings.Join(path, "/") != "devices/disk/source" || n.name.Local != "source" || a.Name.Local != "file" {
		return false
	}
	for _, l := range t.Disks {
		if l.Path == a.Value {
			return true
		}
	}
	return false
}

func (t *toucher) allowedTemplate(n *node, path []string, a xml.Attr) bool {
	return strings.Join(path, "/") == "os/nvram" && n.name.Local == "nvram" && a.Name.Local == "template" && t.beside(a.Value)
}

func (t *toucher) texts(n *node, path []string) {
	text, name := n.own(), n.name.Local
	if text == "" || slices.Contains(freeTexts, name) || !strings.HasPrefix(text, "/") && !slices.Contains(pathElements, name) {
		return
	}
	switch place := strings.Join(path, "/"); {
	case place == "devices/emulator" && text == t.Machine.Emulator:
	case place == "os/loader" && slices.Contains(t.Machine.Loaders, text):
	case place == "devices/rng/backend" && (text == "/dev/urandom" || text == "/dev/random"):
	default:
		t.note(path, true, "%s", text)
	}
}

// device looks at what has a type of its own.
func (t *toucher) device(n *node, path []string) {
	switch place := strings.Join(path, "/"); place {
	case "devices/interface":
		t.kind(n, path, "interface", n.attr("type"))
		t.connection(n, path)
	case "devices/serial", "devices/parallel", "devices/console", "devices/channel":
		t.kind(n, path, "serial", n.attr("type"))
	case "devices/graphics", "devices/redirdev", "devices/smartcard", "devices/audio", "devices/input":
		t.kind(n, path, path[1], n.attr("type"))
	case "devices/rng/backend":
		t.kind(n, path, "rng", n.attr("model"))
	case "devices/tpm/backend":
		t.kind(n, path, "tpm", n.attr("type"))
	}
	if n.name.Local == "seclabel" && (n.attr("type") != "dynamic" || n.child("label") != nil || n.child("baselabel") != nil || n.attr("relabel") == "no") {
		t.note(path, true, "%s", inLine(n))
	}
}

func (t *toucher) kind(n *node, path []string, of, kind string) {
	if !slices.Contains(kindsOfDevices[of], kind) {
		t.note(path, true, "%s", inLine(n))
	}
}

// connection tells of a network card what it is connected to.
func (t *toucher) connection(n *node, path []string) {
	source := n.child("source")
	for _, what := range []string{"network", "bridge"} {
		if name := source.attr(what); name != "" {
			t.note(path, false, "%s %s", what, name)
		}
	}
}

// foreignDisk notes one that is not of the export, and has something in it.
func (t *toucher) foreignDisk(n *node, path []string) bool {
	if strings.Join(path, "/") != "devices/disk" {
		return false
	}
	target := n.child("target").attr("dev")
	_, ours := t.Disks[target]
	foreign := n.child("source") != nil || n.attr("type") != "file" && n.attr("type") != ""
	if ours || !foreign {
		return false
	}
	t.note(path, true, "disk %s, which is not in the export: %s", target, inLine(n))
	return true
}
