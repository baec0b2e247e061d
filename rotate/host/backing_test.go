package host

import (
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

func TestBackingNamesAreResolvedAsQEMUDoes(t *testing.T) {
	for name, want := range map[string]string{
		"/a/base.qcow2":            "/a/base.qcow2",
		"base.qcow2":               "/images/base.qcow2",
		"../x/base.qcow2":          "/images/../x/base.qcow2",
		"./with:colon":             "/images/with:colon",
		"file:/a/base":             "/a/base",
		"file:base":                "/images/base",
		"nbd://host/export":        "",
		"nbd:unix:/socket":         "",
		"json:{":                   "",
		"json:{}":                  "",
		"json:{\"file\":\"node\"}": "",
		`json:{"driver":"qcow2","file":{"driver":"file","filename":"/a/b"}}`:                                 "/a/b",
		`json:{"driver":"qcow2","file.driver":"file","file.filename":"/a/b"}`:                                "/a/b",
		`json:{"driver":"raw","file":{"driver":"raw","offset":"0","file":{"driver":"file","filename":"b"}}}`: "/images/b",
	} {
		if got := BackingPath(&Layer{Path: "/images/top.qcow2", Image: &chain.Image{Backing: name}}); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
