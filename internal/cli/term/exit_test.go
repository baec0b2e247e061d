package term

import (
	"fmt"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
)

func TestExitStatusOfErrors(t *testing.T) {
	if ExitCode(&vfs.HeldError{}) != ExitLocked || ExitCode(policy.Problems{{}}) != ExitUsage {
		t.Error("held lock or policy problems have a wrong status")
	}
}

func TestAShareWithoutLocksIsARefusal(t *testing.T) {
	err := fmt.Errorf("commit: %w", &vfs.LocalLocksError{Path: "/mnt/a", Reason: "/mnt is mounted with nolock (nfs)"})
	if !IsRefusal(err) || ExitCode(err) != ExitRefused {
		t.Errorf("%v: exit %d", err, ExitCode(err))
	}
}
