package libvirthost

import (
	"encoding/xml"
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// An Import is what is to become of a configuration from another host.
type Import struct {
	Name, UUID string
	NewUUID    bool // UUID is another one than the configuration has
	NewMACs    bool
	Trust      bool // what touches this host stays, media included
	Disks      map[string]host.Layer
	Machine    Machine
	Variables  bool // the firmware's variables are in the export
}

// A Machine is what this host runs a guest with.
type Machine struct {
	Emulator string
	Loaders  []string // firmware that libvirt knows here
}

// An Imported is a configuration for this host.
type Imported struct {
	XML     string
	Touches []Touch
	Notes   []string // what was changed, beyond what was asked for
	MACs    []string // that are in it
}

// ImportedXML makes it of a configuration that anybody may have written.
func ImportedXML(text string, i Import) (out Imported, err error) {
	root, err := parseDomain(text)
	if err != nil {
		return out, err
	}
	if err := root.placeDisks(i.Disks); err != nil {
		return out, err
	}
	i.identify(root)
	for _, change := range []func(*node) string{i.emulator, i.variables, i.media, i.labels, i.sockets} {
		if note := change(root); note != "" {
			out.Notes = append(out.Notes, note)
		}
	}
	for _, n := range root.all("devices", "interface", "mac") {
		out.MACs = append(out.MACs, strings.ToLower(n.attr("address")))
	}
	out.XML = root.document()
	out.Touches, err = touchesOf(out.XML, i)
	return out, err
}

// identify gives the guest its name, and what no two guests may have in common.
func (i *Import) identify(root *node) {
	root.drop("name", "uuid")
	name, uuid := newElement("name"), newElement("uuid")
	name.say(i.Name)
	uuid.say(i.UUID)
	root.children = append([]*node{name, uuid}, root.children...)
	root.attrs = deleteAttr(root.attrs, "id")
	for _, n := range root.all("genid") {
		n.children = nil // libvirt makes a new one: the guest has come back from a copy
	}
	if i.NewUUID {
		for _, s := range root.all("sysinfo", "system") {
			s.dropEntry("uuid")
		}
	}
	if i.NewMACs {
		for _, n := range root.all("devices", "interface") {
			n.drop("mac") // libvirt makes one
		}
	}
}

func (n *node) dropEntry(name string) {
	kept := n.children[:0:0]
	for _, c := range n.children {
		if c.name.Local != "entry" || c.attr("name") != name {
			kept = append(kept, c)
		}
	}
	n.children = kept
}

// emulator leaves the program to this host.
func (i *Import) emulator(root *node) (note string) {
	for _, d := range root.all("devices") {
		if e := d.child("emulator"); e != nil && e.own() != i.Machine.Emulator {
			note = "the emulator is this host's own, " + i.Machine.Emulator + ", and not " + e.own()
			d.drop("emulator")
		}
	}
	return note
}

// variables leaves it to libvirt where the firmware's variables are.
func (i *Import) variables(root *node) (note string) {
	for _, o := range root.all("os") {
		n := o.child("nvram")
		if n == nil {
			continue
		}
		if !i.Variables {
			note = "the firmware starts with fresh variables (NVRAM): boot entries and keys are not in the export"
		}
		kept := n.attr("template")
		o.drop("nvram")
		if kept != "" && i.beside(kept) {
			fresh := newElement("nvram")
			fresh.set("template", kept)
			o.children = append(o.children, fresh)
		}
	}
	return note
}

// beside tells whether a template lies with the firmware that libvirt knows here.
func (i *Import) beside(template string) bool {
	for _, l := range i.Machine.Loaders {
		if filepath.Dir(l) == filepath.Dir(filepath.Clean(template)) {
			return true
		}
	}
	return false
}

// media takes the media out of drives: they are files of another host, or of anybody's choice.
func (i *Import) media(root *node) (note string) {
	if i.Trust {
		return ""
	}
	var emptied []string
	for _, d := range root.all("devices", "disk") {
		target := d.child("target").attr("dev")
		if _, ours := i.Disks[target]; ours || d.child("source") == nil || d.attr("device") != "cdrom" && d.attr("device") != "floppy" {
			continue
		}
		d.set("type", "file")
		d.drop("source", "backingStore", "mirror", "auth")
		emptied = append(emptied, target)
	}
	if len(emptied) == 0 {
		return ""
	}
	return "drives are empty (--trust leaves their media in): " + strings.Join(emptied, ", ")
}

// labels takes out those that libvirt had given the guest while it ran there.
func (i *Import) labels(root *node) string {
	for _, s := range root.all("seclabel") {
		if s.attr("type") == "dynamic" {
			s.drop("label", "imagelabel")
		}
	}
	return ""
}

// sockets leaves it to libvirt where those sockets and terminals are that it had made itself.
func (i *Import) sockets(root *node) string {
	for _, kind := range []string{"serial", "parallel", "console", "channel"} {
		for _, c := range root.all("devices", kind) {
			if c.attr("type") == "pty" {
				c.drop("source")
				c.attrs = deleteAttr(c.attrs, "tty")
			}
		}
	}
	for _, c := range root.all("devices", "channel") {
		s := c.child("source")
		if c.attr("type") == "unix" && s.attr("mode") == "bind" && managedSocket(s.attr("path")) {
			c.drop("source")
		}
	}
	return ""
}

func managedSocket(path string) bool {
	path = filepath.Clean(path)
	for _, dir := range []string{"/var/lib/libvirt/qemu/channel/", "/run/libvirt/qemu/channel/"} {
		if strings.HasPrefix(path, dir) {
			return true
		}
	}
	return false
}

func deleteAttr(attrs []xml.Attr, name string) []xml.Attr {
	return slices.DeleteFunc(attrs, func(a xml.Attr) bool { return a.Name.Local == name && a.Name.Space == "" })
}

// ErrNotSure means that libvirt was asked for something, and has not said how it ended.
var ErrNotSure = errors.New("libvirt has not said whether it was done")
