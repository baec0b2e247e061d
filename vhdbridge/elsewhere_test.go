package vhdbridge

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Where other hosts can have a repository, somebody has to say that none has it attached,
// and no file may be fresh, whatever is said.
func TestOtherHostsAreAskedFor(t *testing.T) {
	dir := filepath.Join(newOdd(t), "..", "with blank")
	must(t, os.Rename(filepath.Join(dir, "..", "001"), dir))
	exports := filepath.Join(t.TempDir(), "etab")
	here := Attachment{Exports: exports}
	now := time.Now()
	age := func(d time.Duration) {
		t.Helper()
		entries, err := os.ReadDir(dir)
		must(t, err)
		for _, e := range entries {
			must(t, os.Chtimes(filepath.Join(dir, e.Name()), now, now.Add(-d)))
		}
	}
	r := scan(t, vfs.OS(), dir)
	var refused *chain.RefusedError
	var undetached *UndetachedError
	must(t, here.Elsewhere(r, now, false)) // of this host alone
	for _, line := range []string{dir, filepath.Dir(dir)} {
		must(t, os.WriteFile(exports, []byte("/srv/else\t*(rw)\n"+strings.ReplaceAll(line, " ", `\040`)+"\t*(rw,sync)\n"), 0o600))
		for _, c := range []struct {
			age      time.Duration
			detached bool
			fresh    bool
		}{{0, false, true}, {0, true, true}, {-time.Hour, true, true}, {time.Minute, true, true}, {3 * time.Minute, false, false}} {
			age(c.age)
			err := here.Elsewhere(r, now, c.detached)
			if !errors.As(err, &refused) || errors.As(err, &undetached) == c.fresh {
				t.Errorf("%+v: %v", c, err)
			}
			if text := here.Fresh(r, now); (text != "") != c.fresh {
				t.Errorf("%+v: %q", c, text)
			}
		}
		must(t, here.Elsewhere(r, now, true))
	}
	must(t, os.WriteFile(filepath.Join(dir, ".nfs0001"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "relink_x"), []byte("1"), 0o600))
	age(time.Hour)
	if err := here.Elsewhere(scan(t, vfs.OS(), dir), now, false); err == nil || !strings.Contains(err.Error(), "journals of a collector") || !strings.Contains(err.Error(), ".nfs0001 is a file") {
		t.Errorf("%v", err)
	}
	must(t, os.WriteFile(exports, []byte(filepath.Join(dir, "below")+"\t*(rw)\n"+strings.TrimSuffix(dir, "blank")+"\t*(rw)\n"), 0o600))
	must(t, here.Elsewhere(r, now, false))
}
