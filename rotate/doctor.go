package rotate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
)

// Examine is what doctor tells: Diagnose, and whether a process has an orphan open.
func Examine(w *World, names []string, rules policy.Assignment, now time.Time) []Finding {
	found := Diagnose(w, names, rules, now)
	for i := range found {
		if found[i].Code == FindOrphan {
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
func Fix(ctx context.Context, host Records, w *World, found []Finding) error {
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

func fix(ctx context.Context, host Records, w *World, f *Finding) error {
	switch f.Code {
	case FindMode:
		return os.Chmod(f.Path, overlayMode)
	case FindStale:
		d := w.Domain(f.Domain)
		return host.Redefine(ctx, d.Name, DoctorsFixes(w, d)[f.Snapshot])
	}
	return errors.New("nothing here can mend it")
}
