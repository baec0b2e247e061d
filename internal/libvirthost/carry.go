package libvirthost

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// What libvirt has on record is written back whole. libvirtxml knows most of it, and what it
// does not know, such as what a newer libvirt has added, would be lost on the way through it:
// that is carried over from the text that libvirt gave.

// A node is an element as it is written, or text between elements.
type node struct {
	name     xml.Name // with its prefix as Space; no name: text
	space    string   // what the prefix stands for
	attrs    []xml.Attr
	children []*node
	text     string
	prefixes map[string]string // those declared here and above
}

// parseNodes reads a document. It has one root.
func parseNodes(text string) (*node, error) {
	root := &node{}
	open := []*node{root}
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		token, err := d.RawToken()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		top := open[len(open)-1]
		switch t := token.(type) {
		case xml.StartElement:
			n := newNode(t.Copy(), top.prefixes)
			top.children = append(top.children, n)
			open = append(open, n)
		case xml.EndElement:
			if top.name != t.Name {
				return nil, fmt.Errorf("<%s> ends as <%s>", top.name.Local, t.Name.Local)
			}
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) > 1 {
				top.children = append(top.children, &node{text: string(t)})
			}
		}
	}
	if len(open) != 1 || len(root.children) != 1 {
		return nil, errors.New("not one whole document")
	}
	return root.children[0], nil
}

func newNode(e xml.StartElement, above map[string]string) *node {
	n := &node{name: e.Name, attrs: e.Attr, prefixes: above}
	for _, a := range e.Attr {
		prefix, declares := declared(a)
		if !declares {
			continue
		}
		own := map[string]string{prefix: a.Value}
		for p, uri := range n.prefixes {
			if _, again := own[p]; !again {
				own[p] = uri
			}
		}
		n.prefixes = own
	}
	n.space = n.prefixes[n.name.Space]
	return n
}

// declared tells whether the attribute declares a prefix, "" for the namespace of names
// without one.
func declared(a xml.Attr) (prefix string, yes bool) {
	switch {
	case a.Name.Space == "xmlns":
		return a.Name.Local, true
	case a.Name.Space == "" && a.Name.Local == "xmlns":
		return "", true
	}
	return "", false
}

// named returns the children that are called as n is.
func (n *node) named(like *node) []*node {
	var found []*node
	for _, c := range n.children {
		if c.name.Local != "" && c.name.Local == like.name.Local && c.space == like.space {
			found = append(found, c)
		}
	}
	return found
}

// write appends the element, as XML.
func (n *node) write(b *strings.Builder) {
	if n.name.Local == "" {
		b.WriteString(escapedText.Replace(n.text))
		return
	}
	b.WriteString("<" + written(n.name))
	for _, a := range n.attrs {
		b.WriteString(" " + written(a.Name) + `="`)
		_ = xml.EscapeText(b, []byte(a.Value)) // to memory
		b.WriteString(`"`)
	}
	b.WriteString(">")
	for _, c := range n.children {
		c.write(b)
	}
	b.WriteString("</" + written(n.name) + ">")
}

// escapedText leaves the ends of lines between elements as they are.
var escapedText = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "\r", "&#xD;")

func written(name xml.Name) string {
	if name.Space != "" {
		return name.Space + ":" + name.Local
	}
	return name.Local
}

// carry returns after, which was made of before, with all elements and attributes of
// before that it lacks. What describes chains, and the parent of a snapshot, is as after
// has it.
func carry(before, after string) (string, error) {
	from, err := parseNodes(before)
	if err != nil {
		return "", err
	}
	to, err := parseNodes(after)
	if err != nil {
		return "", err
	}
	from.carryTo(to, nil)
	var b strings.Builder
	to.write(&b)
	return b.String(), nil
}

// carryTo adds what n has and to lacks. Elements of one name are the same ones, in their
// order, in both; where their numbers differ nothing is added: sameElements tells.
func (n *node) carryTo(to *node, path []string) {
	path = append(path, n.name.Local)
	for _, a := range n.attrs {
		if _, declares := declared(a); !declares && !to.has(a.Name) && !placesLayer(path, a.Name.Local) {
			to.attrs = append(to.attrs, a)
		}
	}
	done := map[xml.Name]bool{}
	for _, c := range n.children {
		key := xml.Name{Space: c.space, Local: c.name.Local}
		if c.name.Local == "" || done[key] || describesChain(path, c.name.Local) {
			continue
		}
		done[key] = true
		have, there := n.named(c), to.named(c)
		switch {
		case len(there) == 0:
			for _, h := range have {
				to.children = append(to.children, h.movable())
			}
		case len(there) == len(have):
			for i := range have {
				have[i].carryTo(there[i], path)
			}
		}
	}
}

func (n *node) has(attr xml.Name) bool {
	return slices.ContainsFunc(n.attrs, func(a xml.Attr) bool { return a.Name == attr })
}

// movable is n with all prefixes that hold at its place declared by itself.
func (n *node) movable() *node {
	c := *n
	c.attrs = slices.Clone(n.attrs)
	for prefix, uri := range n.prefixes {
		name := xml.Name{Space: "xmlns", Local: prefix}
		if prefix == "" {
			name = xml.Name{Local: "xmlns"}
		}
		if !c.has(name) {
			c.attrs = append(c.attrs, xml.Attr{Name: name, Value: uri})
		}
	}
	slices.SortFunc(c.attrs[len(n.attrs):], func(a, b xml.Attr) int { return strings.Compare(a.Name.Local, b.Name.Local) })
	return &c
}

// without returns the document without those elements of its root.
func without(text, name string) (string, error) {
	root, err := parseNodes(text)
	if err != nil {
		return "", err
	}
	root.children = slices.DeleteFunc(root.children, func(c *node) bool { return c.name.Local == name })
	var b strings.Builder
	root.write(&b)
	return b.String(), nil
}

// storedText returns the configuration that a snapshot's XML has on record, as a document of
// its own: the persistent one where it has two.
func storedText(text string) (string, error) {
	snapshot, err := parseNodes(text)
	if err != nil {
		return "", err
	}
	for _, name := range []string{"inactiveDomain", "domain"} {
		if found := snapshot.named(&node{name: xml.Name{Local: name}}); len(found) == 1 {
			stored := found[0].movable()
			stored.name.Local = "domain"
			var b strings.Builder
			stored.write(&b)
			return b.String(), nil
		}
	}
	return "", errors.New("it has no configuration on record")
}

// describesChain tells whether an element is one that is rewritten: the layers of a disk,
// and the parent of a snapshot.
func describesChain(path []string, name string) bool {
	return name == "backingStore" || name == "parent" && len(path) == 1
}

// placesLayer tells whether an attribute says where a layer is.
func placesLayer(path []string, attr string) bool {
	if path[len(path)-1] != "source" || !slices.Contains(path, "disk") {
		return false
	}
	return slices.Contains([]string{"file", "dev", "index", "pool", "volume", "mode", "dir", "protocol", "name"}, attr)
}
