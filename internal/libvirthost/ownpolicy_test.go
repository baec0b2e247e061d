//go:build cgo

package libvirthost

import (
	"reflect"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"libvirt.org/go/libvirtxml"
)

func TestWhatADomainsMetadataSaysOfItsPolicy(t *testing.T) {
	const ns = `xmlns:vr="https://github.com/virt-rotate/virt-rotate/ns/policy"`
	const other = `<libosinfo:libosinfo xmlns:libosinfo="http://libosinfo.org/xmlns/libvirt/domain/1.0"><libosinfo:os id="http://debian.org/debian/12"/></libosinfo:libosinfo>`
	for text, want := range map[string]*host.OwnPolicy{
		"":                             nil,
		other:                          nil,
		other + `<policy name="web"/>`: nil,
		other + `<vr:policy ` + ns + ` name="web"/>`:                                                  {Name: "web"},
		`<policy xmlns="https://github.com/virt-rotate/virt-rotate/ns/policy" enabled="no"/>`:         {Enabled: "no"},
		"<vr:policy " + ns + " name='w'>\n every = \"6h\"\n keep = { last = 2 } # &lt;\n</vr:policy>": {Name: "w", Text: "every = \"6h\"\n keep = { last = 2 } # <"},
		`<vr:policy ` + ns + ` nam="web"/>`:                                                           {Problem: "attribute nam: want name or enabled"},
		`<vr:plan ` + ns + ` name="web"/>`:                                                            {Problem: "<plan>: want <policy>"},
		`<vr:policy ` + ns + `><keep last="3"/></vr:policy>`:                                          {Problem: "<keep> in it: want keys in TOML"},
		`<vr:policy ` + ns + ` name="a"/><vr:policy ` + ns + ` name="b"/>`:                            {Problem: "several elements of https://github.com/virt-rotate/virt-rotate/ns/policy"},
	} {
		var x libvirtxml.Domain
		if err := x.Unmarshal("<domain type='qemu'><name>g</name><metadata>" + text + "</metadata></domain>"); err != nil {
			t.Fatal(err)
		}
		if got := ownPolicy(x.Metadata); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
	}
	if got := ownPolicy(&libvirtxml.DomainMetadata{XML: "<https://github.com/virt-rotate/virt-rotate/ns/policy"}); got == nil || !strings.Contains(got.Problem, "XML") {
		t.Errorf("%+v", got)
	}
}

// What a running guest says counts; where it says nothing, what it will say after a restart.
func TestWhichConfigurationSaysWhatThePolicyIs(t *testing.T) {
	xml := func(name string) string {
		if name != "" {
			name = `<metadata><policy xmlns="https://github.com/virt-rotate/virt-rotate/ns/policy" name="` + name + `"/></metadata>`
		}
		return "<domain type='qemu'><name>g</name>" + name + "<devices/></domain>"
	}
	for _, c := range [][3]string{{"a", "b", "a"}, {"", "b", "b"}, {"a", "", "a"}} {
		d := &host.Domain{Name: "g"}
		v := &volumes{}
		if err := readDomain(d, xml(c[0]), v); err != nil {
			t.Fatal(err)
		}
		if err := readInactive(d, xml(c[1]), v); err != nil {
			t.Fatal(err)
		}
		if d.Own == nil || d.Own.Name != c[2] {
			t.Errorf("%q: %+v", c, d.Own)
		}
	}
}
