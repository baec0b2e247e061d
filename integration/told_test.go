package integration_test

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
	"github.com/virt-rotate/virt-rotate/internal/termtest"
)

// Cron mails what a run prints: one line for each guest that changed, and nothing at all
// of one that did not, or where nobody wants to know.
func TestWhatARunTellsALog(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.writePolicy(strings.Replace(keepThree, `"1s"`, `"1h"`, 1))
	b.boot(guest.Spec{Name: "g1"})
	for _, want := range []string{`^g1: snapshot taken\n$`, `^g1: snapshot taken\n$`, `^g1: snapshot taken\n$`,
		`^g1: snapshot taken; 1 snapshot dropped; 1 merge of [0-9.]+ [KM]iB(; [0-9.]+ [KM]iB freed)?\n$`} {
		b.waitWrites("g1", 30)
		if r := b.rotate("run", "--now").wantExit(t, 0); !regexp.MustCompile(want).MatchString(r.Stdout) || r.Stderr != "" {
			t.Errorf("stdout %q, want %s; stderr %q", r.Stdout, want, r.Stderr)
		}
	}
	if r := b.rotate("run").wantExit(t, 0); r.Stdout+r.Stderr != "" {
		t.Errorf("nothing was due: %q %q", r.Stdout, r.Stderr)
	}
	b.waitWrites("g1", 30)
	if r := b.rotate("run", "--now", "-v").wantExit(t, 0); !strings.Contains(r.Stdout, "\n  merge          vda: ") || !strings.Contains(r.Stderr, "g1/vda: merged ") {
		t.Errorf("stdout %q, stderr %q", r.Stdout, r.Stderr)
	}
	if r := b.rotate("run", "--now", "--quiet").wantExit(t, 0); r.Stdout+r.Stderr != "" {
		t.Errorf("quiet: %q %q", r.Stdout, r.Stderr)
	}
	b.checkGuest("g1")
}

// Snapshots are named by what they are; which one that was is told.
func TestSnapshotsOfARealGuestByWhatTheyAre(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.writePolicy(keepThree)
	b.boot(guest.Spec{Name: "g1"})
	for range 3 {
		b.rotations("g1", 1)
		time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second))) // a name that another begins with has no prefix of its own
	}
	names := b.snapshotNames("g1")
	before := b.keptStates("g1")
	for text, want := range map[string]string{"latest": names[2], "-2": names[1], "oldest": names[0], names[1][:len(names[1])-1]: names[1]} {
		file := filepath.Join(t.TempDir(), "state.raw")
		r := b.rotate("export", "g1", text, "-o", file, "-O", "raw").wantExit(t, 0)
		if !strings.Contains(r.Stderr, "virt-rotate: "+text+" is "+want+"\n") {
			t.Errorf("%s: %q", text, r.Stderr)
		}
		if got := sum(t, file); got != before[want]["vda"].SHA256 {
			t.Errorf("%s is not the state of %s", text, want)
		}
	}
	if r := b.rotate("restore", "g1", "--stop", "--no-start", "--force", "--patience=1s", "today").wantExit(t, 0); !strings.Contains(r.Stdout, "to             "+names[2]+"\n") {
		t.Errorf("%v", r)
	}
	if r := b.rotate("restore", "g1", names[0][:4]).wantExit(t, 2); !strings.Contains(r.Stderr, "several begin like this: "+names[0]) {
		t.Errorf("%v", r)
	}
	b.checkGuest("g1")
}

// shellLine is a line of shell that runs virt-rotate as rotate does.
func (b *bed) shellLine(env []string, args ...string) string {
	b.t.Helper()
	program, err := binary()
	must(b.t, err)
	cmd := b.host.Command(b.t.Context(), program, append([]string{"--connect", b.host.URI(), "--policy", b.policy}, args...)...)
	words := slices.Concat([]string{"env"}, cmd.Env, b.env, env, cmd.Args)
	for i, w := range words {
		words[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return strings.Join(words, " ")
}

// One line a guest, the worst first; coloured on a terminal, and cut to its width; plain and
// whole elsewhere.
func TestStatusOfAllGuests(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.writePolicy(strings.Replace(keepThree, "g*", "g[12]", 1))
	for _, name := range []string{"g1", "g2", "g3"} {
		b.boot(guest.Spec{Name: name})
	}
	b.rotations("g1", 2)
	const (
		head = `GUEST  STATE    SNAPSHOTS  NEWEST   CHAIN  ON DISK   VERDICT\n`
		g2   = `g2     running  0          -        1/30   [0-9.]+ [KM]iB +WARNING no-snap`
		g3   = `g3     running  0          -        1      [0-9.]+ [KM]iB +WARNING no-pol`
		g1   = `g1     running  2          \d+[sm] ago +3/30   [0-9.]+ [KM]iB +OK \(p\)`
	)
	r := b.rotate("status").wantExit(t, 0)
	whole := head + g2 + `shot: .*\n` + g3 + `icy: no policy covers the domain\n` + g1 + `\n`
	if squeezed := squeeze(r.Stdout); !regexp.MustCompile("^" + squeeze(whole) + "$").MatchString(squeezed) {
		t.Errorf("%s\nwant %s", squeezed, squeeze(whole))
	}
	for _, c := range []struct {
		width  string
		env    []string
		want   string
		colour bool
	}{
		{"80", nil, head + g2 + `[a-z:, ]*…\n` + g3 + `[a-z: ]*…\n` + g1, true},
		{"200", nil, whole[:len(whole)-2], true},
		{"200", []string{"NO_COLOR=1"}, whole[:len(whole)-2], false},
	} {
		s := termtest.Start(t, c.width, b.shellLine(append([]string{"TERM=screen"}, c.env...), "status"))
		s.Shows(loosely(c.want))
		if yellow := strings.Contains(s.Colours(), "\x1b[33mWARNING"); yellow != c.colour {
			t.Errorf("%s columns, %q: coloured: %t\n%q", c.width, c.env, yellow, s.Colours())
		}
	}
}

// squeeze makes runs of spaces one.
func squeeze(text string) string { return regexp.MustCompile(` +\+?`).ReplaceAllString(text, " ") }

// loosely is an expression to which runs of spaces are of any length.
func loosely(want string) string { return regexp.MustCompile(` +\+?`).ReplaceAllString(want, " +") }
