//go:build cgo

package libvirthost

import (
	"path/filepath"
	"reflect"
	"slices"
	"testing"
)

// What an earlier look was told reaches nobody who could change something: a Looker has no way to, and all others are
// without.
func TestALookerCanOnlyLook(t *testing.T) {
	var methods []string
	for l, i := reflect.TypeFor[*Looker](), 0; i < l.NumMethod(); i++ {
		methods = append(methods, l.Method(i).Name)
	}
	if want := []string{"Close", "Domains", "Pools", "QEMUChains", "Remote"}; !slices.Equal(methods, want) {
		t.Errorf("a Looker has %q, want %q", methods, want)
	}
	h, err := Open("test:///default")
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if h.told != nil {
		t.Error("Open reads what earlier looks were told")
	}
	l, err := OpenToLook("test:///default", filepath.Join(t.TempDir(), "told"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l.h.told != nil {
		t.Error("a driver without files of its own is believed to have some")
	}
	if domains, err := l.Domains(t.Context()); err != nil || len(domains) == 0 {
		t.Errorf("%+v, %v", domains, err)
	}
}
