package integration_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// logged is the JSON of history, as far as tests look at it.
type logged struct {
	Entries []struct {
		Command, Name, UUID, Policy, Result, Error string
		Steps                                      []struct{ Op string }
		Refused                                    []struct{ Code string }
		Merged, Freed, Allocated                   int64
		Layers, Runs                               int
		Start, End                                 time.Time
	}
}

// withHooks is keepThree with hooks that write what they are told into a file. Before fails
// while there is a file stop, and hangs while there is one called hang.
func (b *bed) withHooks() string {
	say := fmt.Sprintf(`echo $VIRT_ROTATE_HOOK $VIRT_ROTATE_DOMAIN $VIRT_ROTATE_RESULT >>%s`, b.path("said"))
	before := fmt.Sprintf(`%s; while [ -e %s ]; do sleep 0.1; done; ! [ -e %s ]`, say, b.path("hang"), b.path("stop"))
	return keepThree + fmt.Sprintf("\nhooks = { before = [\"/bin/sh\", \"-c\", '''%s'''], after = [\"/bin/sh\", \"-c\", '''%s'''], failed = [\"/bin/sh\", \"-c\", '''%s'''] }\n", before, say, say)
}

// said returns what the hooks wrote since the last call.
func (b *bed) said() []string {
	b.t.Helper()
	text, err := os.ReadFile(b.path("said"))
	must(b.t, err)
	must(b.t, os.WriteFile(b.path("said"), nil, 0o600))
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

func (b *bed) wantSaid(want ...string) {
	b.t.Helper()
	if said := b.said(); !slices.Equal(said, want) {
		b.t.Errorf("the hooks wrote %q, want %q", said, want)
	}
}

func TestHooksAndHistoryOfARealGuest(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.writePolicy(b.withHooks())
	b.boot(guest.Spec{Name: "g1"})
	for range 4 {
		b.rotations("g1", 1)
		b.wantSaid("before g1", "after g1 done")
	}

	names := b.snapshotNames("g1")
	must(t, os.WriteFile(b.path("stop"), nil, 0o600))
	before := b.keptStates("g1")
	if r := b.rotate("run", "--now").wantExit(t, 4); !strings.Contains(r.Stdout, "the before hook failed: exit status 1") {
		t.Errorf("%v", r)
	}
	b.wantSaid("before g1", "failed g1 refused")
	if now := b.snapshotNames("g1"); !slices.Equal(now, names) {
		t.Errorf("the snapshots were %q, are %q", names, now)
	}
	b.unchanged("g1", before)
	must(t, os.Remove(b.path("stop")))

	must(t, os.WriteFile(b.path("hang"), nil, 0o600))
	r := b.beginRotate("run", "--now")
	b.awaitIn(r, "the hook", func() bool {
		text, _ := os.ReadFile(b.path("said"))
		return len(text) > 0
	})
	r.kill()
	must(t, os.Remove(b.path("hang"))) // the hook ends by itself
	b.wantSaid("before g1")
	b.rotations("g1", 1)
	b.wantSaid("before g1", "after g1 done")

	b.rotate("restore", "--stop", "--no-start", "--force", "--patience", "1s", "g1", names[1]).wantExit(t, 0)

	var log logged
	b.rotate("history", "--output=json", "g1").wantExit(t, 0).decode(t, &log)
	var got []string
	for _, e := range log.Entries {
		got = append(got, e.Command+" "+e.Result)
	}
	want := []string{"run done", "run done", "run done", "run done", "run refused", "run done", "restore done"}
	if !slices.Equal(got, want) {
		t.Fatalf("%q, want %q", got, want)
	}
	for i, e := range log.Entries {
		merged := i == 3 || i == 5
		if e.Name != "g1" || e.UUID == "" || e.Policy != "p" || (e.Merged > 0) != merged || (e.Freed > 0) != merged || e.Allocated == 0 || e.End.Before(e.Start) {
			t.Errorf("entry %d: %+v", i, e)
		}
	}
	if e := log.Entries[5]; e.Layers != 4 || len(e.Steps) < 4 || e.Runs != 1 {
		t.Errorf("%+v", e)
	}
	if e := log.Entries[4]; len(e.Steps) != 0 || len(e.Refused) != 1 || e.Refused[0].Code != "hook" {
		t.Errorf("%+v", e)
	}
	if r := b.rotate("status", "*").wantExit(t, 0); !strings.Contains(r.Stdout, " on disk, 2 → 4 layers in ") || !strings.Contains(r.Stdout, "; merged ") {
		t.Errorf("%v", r)
	}
}
