package chain_test

import (
	"errors"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// lone is a share that is mounted without locks.
type lone struct{ vfs.FS }

func (lone) LocksStayLocal(string) (string, error) { return "/mnt is mounted with nolock (nfs)", nil }

func TestNothingIsPlannedThatCouldNotBeLocked(t *testing.T) {
	p := newPlace(t, "qcow2", "qcow2")
	p.store.FS = lone{p.store.FS}
	path := p.path("top")
	_, committed := p.store.PlanCommit(t.Context(), chain.CommitRequest{Top: path})
	_, pulled := p.store.PlanPull(t.Context(), path, "", "")
	_, rebased := p.store.PlanRebase(t.Context(), path, "", "", "")
	for what, err := range map[string]error{"commit": committed, "pull": pulled, "rebase": rebased} {
		var local *vfs.LocalLocksError
		if !errors.As(err, &local) || local.Path != path {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := p.store.Chain(path, ""); err != nil {
		t.Errorf("to look is allowed: %v", err)
	}
}
