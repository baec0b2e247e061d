package rotate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// Examine is what doctor tells: Diagnose, and whether a process has an orphan open.
func Examine(w *observe.World, names []string, rules policy.Assignment, now time.Time) []decide.Finding {
	found := decide.Diagnose(w, names, rules, now)
	for i := range found {
		if found[i].Code == decide.FindOrphan {
			found[i].Detail += inUseText(found[i].Path)
		}
	}
	return found
}

func inUseText(path string) string {
	if use, err := vfs.InUse(path); err != nil || use.Read || use.Write {
		return "; a process has it open"
	}
	return ""
}

// Fix mends what is safe to mend, and notes it in found. The caller holds the Lock.
func Fix(ctx context.Context, host host.Records, w *observe.World, found []decide.Finding) error {
	var errs []error
	for i := range found {
		f := &found[i]
		if !f.Fixable {
			continue
		}
		if err := fix(ctx, host, w, f); err != nil {
			errs = append(errs, fmt.Errorf("%s: %s: %w", f.Domain, f.Code, err))
			continue
		}
		f.Fixed = true
	}
	return errors.Join(errs...)
}

func fix(ctx context.Context, host host.Records, w *observe.World, f *decide.Finding) error {
	switch f.Code {
	case decide.FindMode:
		return os.Chmod(f.Path, overlayMode)
	case decide.FindStale:
		d := w.Domain(f.Domain)
		return host.Redefine(ctx, d.Name, decide.DoctorsFixes(w, d)[f.Snapshot])
	}
	return errors.New("nothing here can mend it")
}
