package chain_test

import (
	"errors"
	"os"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// A backing name that leads out of the directories that are allowed, by a symbolic link as
// that of a logical volume, is followed only if the caller has named the file himself.
func TestALinkIsFollowedIfTheCallerNamesIt(t *testing.T) {
	p := newPlace(t, "qcow2", "qcow2")
	far := t.TempDir() + "/far"
	must(t, os.Rename(p.path("base"), far))
	must(t, os.Symlink(far, p.path("base")))
	for _, c := range []struct {
		named []string
		ok    bool
	}{
		{nil, false},
		{[]string{p.path("top"), p.path("another")}, false},
		{[]string{p.path("base")}, true},
		{[]string{p.dir + "//./base"}, true},
		{[]string{far}, true}, // by another name
	} {
		p.store.Named = c.named
		nodes, err := p.store.Chain(p.path("top"), "qcow2")
		var refused *chain.RefusedError
		if ok := err == nil && len(nodes) == 2; ok != c.ok || err != nil && !errors.As(err, &refused) {
			t.Errorf("%q: %d nodes, %v", c.named, len(nodes), err)
		}
	}
}
