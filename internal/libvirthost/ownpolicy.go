package libvirthost

import (
	"encoding/xml"
	"fmt"
	"strings"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"libvirt.org/go/libvirtxml"
)

// ownElement is the element <policy> of our namespace, with whatever is in it.
type ownElement struct {
	XMLName  xml.Name
	Name     string     `xml:"name,attr"`
	Enabled  string     `xml:"enabled,attr"`
	Others   []xml.Attr `xml:",any,attr"`
	Text     string     `xml:",chardata"`
	Children []struct {
		XMLName xml.Name
	} `xml:",any"`
}

// ownPolicy reads what a domain's metadata says of its policy; nil where it says nothing.
// Elements of other namespaces are nobody's business.
func ownPolicy(m *libvirtxml.DomainMetadata) *host.OwnPolicy {
	if m == nil || !strings.Contains(m.XML, policy.Namespace) {
		return nil
	}
	var all struct {
		Elements []ownElement `xml:",any"`
	}
	if err := xml.Unmarshal([]byte("<metadata>"+m.XML+"</metadata>"), &all); err != nil {
		return &host.OwnPolicy{Problem: err.Error()}
	}
	var own *host.OwnPolicy
	for i := range all.Elements {
		switch e := &all.Elements[i]; {
		case e.XMLName.Space != policy.Namespace:
		case own != nil:
			return &host.OwnPolicy{Problem: "several elements of " + policy.Namespace}
		default:
			own = e.read()
		}
	}
	return own
}

// read refuses what it does not know: whoever wrote it wants something else than would be done.
func (e *ownElement) read() *host.OwnPolicy {
	if e.XMLName.Local != "policy" {
		return &host.OwnPolicy{Problem: fmt.Sprintf("<%s>: want <policy>", e.XMLName.Local)}
	}
	for _, a := range e.Others {
		if a.Name.Space != "xmlns" && a.Name.Local != "xmlns" {
			return &host.OwnPolicy{Problem: fmt.Sprintf("attribute %s: want name or enabled", a.Name.Local)}
		}
	}
	if len(e.Children) > 0 {
		return &host.OwnPolicy{Problem: fmt.Sprintf("<%s> in it: want keys in TOML", e.Children[0].XMLName.Local)}
	}
	return &host.OwnPolicy{Name: e.Name, Enabled: e.Enabled, Text: strings.TrimSpace(e.Text)}
}
