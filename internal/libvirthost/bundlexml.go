package libvirthost

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// What leaves the host with a guest, and comes to another one, is its configuration as libvirt
// wrote it: changed in places, element by element, with nothing lost on the way.

// A StoredDisk is a disk in a configuration.
type StoredDisk struct {
	Target, Device string
	ReadOnly       bool
}

// StoredDisks lists the disks of a configuration.
func StoredDisks(text string) (disks []StoredDisk, err error) {
	root, err := parseDomain(text)
	if err != nil {
		return nil, err
	}
	for _, d := range root.all("devices", "disk") {
		s := StoredDisk{Target: d.child("target").attr("dev"), Device: d.attr("device"), ReadOnly: d.child("readonly") != nil}
		if s.Device == "" {
			s.Device = "disk"
		}
		disks = append(disks, s)
	}
	return disks, nil
}

// ExportedXML is a configuration whose disks are these files, by target.
func ExportedXML(text string, files map[string]host.Layer) (string, error) {
	root, err := parseDomain(text)
	if err != nil {
		return "", err
	}
	if err := root.placeDisks(files); err != nil {
		return "", err
	}
	return root.document(), nil
}

// placeDisks puts files in the place of what the disks had, of which nothing stays.
func (n *node) placeDisks(files map[string]host.Layer) error {
	placed := map[string]bool{}
	for _, d := range n.all("devices", "disk") {
		target := d.child("target").attr("dev")
		l, ok := files[target]
		if !ok {
			continue
		}
		if placed[target] {
			return fmt.Errorf("domain XML: two disks are called %s", target)
		}
		placed[target] = true
		d.place(l)
	}
	for target := range files {
		if !placed[target] {
			return fmt.Errorf("domain XML: it has no disk %s", target)
		}
	}
	return nil
}

func (n *node) place(l host.Layer) {
	n.set("type", "file")
	n.drop("source", "backingStore", "mirror")
	source := newElement("source")
	source.set("file", l.Path)
	n.children = append([]*node{source}, n.children...)
	driver := n.child("driver")
	if driver == nil {
		driver = newElement("driver")
		driver.set("name", "qemu")
		n.children = append([]*node{driver}, n.children...)
	}
	driver.set("type", qemuFormat(l.Format))
}

func qemuFormat(format string) string {
	if format == "vhd" {
		return "vpc"
	}
	return format
}

// Bounds of a configuration that somebody else has written.
const (
	maxDomainText  = 1 << 20 // bytes
	maxDomainDepth = 64      // elements in each other
)

// parseDomain reads a configuration that anybody may have written: one of a bounded size and
// depth, in UTF-8, without declarations of its own.
func parseDomain(text string) (*node, error) {
	if len(text) > maxDomainText {
		return nil, fmt.Errorf("domain XML: it has %d bytes, more than %d", len(text), maxDomainText)
	}
	if err := plainDocument(text); err != nil {
		return nil, fmt.Errorf("domain XML: %w", err)
	}
	root, err := parseNodes(text)
	if err == nil && root.name.Local != "domain" {
		err = fmt.Errorf("it is a <%s>", root.name.Local)
	}
	if err != nil {
		return nil, fmt.Errorf("domain XML: %w", err)
	}
	return root, nil
}

func plainDocument(text string) error {
	depth := 0
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch t := token.(type) {
		case xml.StartElement:
			if depth++; depth > maxDomainDepth {
				return fmt.Errorf("elements are more than %d deep", maxDomainDepth)
			}
		case xml.EndElement:
			depth--
		case xml.Directive:
			return errors.New("it has a document type of its own")
		case xml.ProcInst:
			if t.Target != "xml" {
				return fmt.Errorf("it has an instruction %q", t.Target)
			}
		}
	}
}

func newElement(name string) *node { return &node{name: xml.Name{Local: name}} }

// is tells whether it is an element of libvirt's own with that name.
func (n *node) is(name string) bool {
	return n.name.Local == name && n.name.Space == "" && n.space == ""
}

// child is the first element of that name, or nil.
func (n *node) child(name string) *node {
	if n == nil {
		return nil
	}
	for _, c := range n.children {
		if c.is(name) {
			return c
		}
	}
	return nil
}

// all lists the elements at the end of a path.
func (n *node) all(path ...string) (found []*node) {
	if len(path) == 0 {
		return []*node{n}
	}
	first, rest := path[0], path[1:]
	for _, c := range n.children {
		if c.is(first) {
			found = append(found, c.all(rest...)...)
		}
	}
	return found
}

// attr is the value of an attribute, "" where it is not there.
func (n *node) attr(name string) string {
	if n == nil {
		return ""
	}
	for _, a := range n.attrs {
		if a.Name.Local == name && a.Name.Space == "" {
			return a.Value
		}
	}
	return ""
}

func (n *node) set(name, value string) {
	for i := range n.attrs {
		if n.attrs[i].Name.Local == name && n.attrs[i].Name.Space == "" {
			n.attrs[i].Value = value
			return
		}
	}
	n.attrs = append(n.attrs, xml.Attr{Name: xml.Name{Local: name}, Value: value})
}

// drop takes out all children of these names.
func (n *node) drop(names ...string) {
	n.children = slices.DeleteFunc(n.children, func(c *node) bool { return slices.ContainsFunc(names, c.is) })
}

// own is the text that an element has itself, without the spaces around it.
func (n *node) own() string {
	if n == nil {
		return ""
	}
	var b strings.Builder
	for _, c := range n.children {
		if c.name.Local == "" {
			b.WriteString(c.text)
		}
	}
	return strings.TrimSpace(b.String())
}

// say makes a text the only thing that an element has.
func (n *node) say(text string) { n.children = []*node{{text: text}} }

func (n *node) document() string {
	var b strings.Builder
	n.write(&b)
	b.WriteString("\n")
	return b.String()
}
