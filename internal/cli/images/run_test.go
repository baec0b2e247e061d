package images

import (
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

func TestOnceDataHasMovedNothingIsARefusal(t *testing.T) {
	refusal := &vfs.BusyError{Path: "x"}
	for moved, want := range map[int64]int{0: term.ExitRefused, 1: term.ExitFailed} {
		r := &Run{Moved: moved, Ended: term.ExitFailed}
		if got := term.ExitCode(term.OneLine(r.Outcome(refusal))); got != want {
			t.Errorf("%d bytes moved: exit %d, want %d", moved, got, want)
		}
	}
}
