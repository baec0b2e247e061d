package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
)

// dieInCommit commits b and c into a, and dies at its n-th change of a file. It tells
// whether there was one.
func dieInCommit(t *testing.T, n int) bool {
	t.Helper()
	var changes atomic.Int64 // data is copied side by side
	dead := errors.New("dead")
	s := formats.Store(vfs.OS(), nil)
	s.FS = vfstest.Mortal(vfs.OS(), func(string, string) error {
		if changes.Add(1) > int64(n) {
			return dead
		}
		return nil
	})
	m, err := s.PlanCommit(t.Context(), chain.CommitRequest{Top: "c.qcow2", Base: "a.qcow2"})
	if err == nil {
		err = s.Commit(context.Background(), m, func(int64) {})
	}
	if err != nil && !errors.Is(err, dead) {
		t.Fatal(err)
	}
	return err != nil
}

// A commit that died between its journal and its end is finished by the next commit in
// the directory, whatever that is for; --dry-run tells so and changes nothing.
func TestACommitThatLeftItsJournalIsFinishedByTheNext(t *testing.T) {
	again := restored(t)
	finished := 0
	for n := 0; ; n++ {
		dir := again()
		want := sums(t, "d.qcow2")
		if !dieInCommit(t, n) {
			break
		}
		journals, err := filepath.Glob(filepath.Join(dir, ".virt-rotate-commit-*.json"))
		if err != nil || len(journals) == 0 {
			continue // before that it is simply done again
		}
		finished++
		mustBe(t, "after the crash", want)
		before := treeSum(t, dir)
		plan := must(t, "image", "commit", "--dry-run", "--output=json", "d.qcow2")
		if !strings.HasPrefix(reportOf(t, plan), "finish c.qcow2") || treeSum(t, dir) != before {
			t.Errorf("change %d: --dry-run: %s", n, plan)
		}
		must(t, "image", "commit", "d.qcow2")
		mustBe(t, "after the next commit", map[string]string{"a.qcow2": want["d.qcow2"]})
		for _, gone := range []string{"b.qcow2", "c.qcow2", "d.qcow2", journals[0]} {
			if _, err := os.Stat(gone); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("change %d: %s: %v", n, gone, err)
			}
		}
	}
	if finished < 3 {
		t.Errorf("only %d of the deaths left a journal", finished)
	}
}
