package guests

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
)

// A fault is UNKNOWN: the status with which Go ends on a panic is CRITICAL for a plugin.
func TestAFaultInCheckIsUnknown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.toml")
	if err := os.WriteFile(path, []byte("[policy.p]\ndomains = [\"x\"]\nkeep = { last = 1 }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	e := &term.Env{Out: &out, Err: &out, PolicyPath: path, StateDir: t.TempDir(), Clock: func() time.Time { panic("no | clock") }}
	app := &cli.App{Commands: []*cli.Command{checkCommand(e)}, ExitErrHandler: func(*cli.Context, error) {}}
	err := app.RunContext(t.Context(), []string{"virt-rotate", "check"})
	var exit *term.ExitError
	if !errors.As(err, &exit) || exit.Code != int(rotate.Unknown) || exit.Err != nil || !strings.HasPrefix(out.String(), "VIRT-ROTATE UNKNOWN - a fault of virt-rotate: no / clock") {
		t.Errorf("%v, %s", err, out.String())
	}
}

func TestPerformanceDataIsAsTheGuidelinesHaveIt(t *testing.T) {
	newest := time.Date(2026, 1, 1, 11, 0, 0, 0, time.UTC)
	v := rotate.Verdict{Domain: "my web", Newest: &newest, MaxAge: 2 * time.Hour, CritAge: 4 * time.Hour, Layers: 3, MaxChain: 30, Allocated: 5 << 30, Free: 7, MinFree: 6}
	c := withAges(v, newest.Add(90*time.Minute))
	const want = "'my web_age'=5400s;7200;14400;0 'my web_layers'=3;;;0;30 'my web_allocated'=5368709120B;;;0 'my web_free'=7B;6:;;0"
	if got := strings.Join(c.data(), " "); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	v = rotate.Verdict{Domain: "off", Newest: &newest, Free: -1}
	c = withAges(v, newest.Add(time.Hour))
	if got := strings.Join(c.data(), " "); got != "off_age=3600s;;;0" {
		t.Error(got)
	}
}

// What an ordinary user cannot read is not known to be wrong, nor to be right.
func TestCheckOfAUserWhoCannotReadTheImages(t *testing.T) {
	v := rotate.Verdict{Level: rotate.Warning, Reasons: []rotate.Reason{{Level: rotate.Warning, Code: "unreadable", Detail: "open /x: " + syscall.EACCES.Error()}}}
	if got := judgedBy(0, v); got.Level != rotate.Warning {
		t.Errorf("root: %+v", got)
	}
	got := judgedBy(1000, v)
	if got.Level != rotate.Unknown || got.Reasons[0].Code != decide.FindRoot || v.Reasons[0].Code != "unreadable" {
		t.Errorf("a user: %+v", got)
	}
	v.Reasons = append(v.Reasons, rotate.Reason{Level: rotate.Critical, Code: "overdue"})
	if got := judgedBy(1000, v); got.Level != rotate.Critical {
		t.Errorf("a user who sees worse: %+v", got)
	}
	v.Reasons, v.Level = nil, rotate.OK
	if got := judgedBy(1000, v); got.Level != rotate.OK {
		t.Errorf("nothing wrong: %+v", got)
	}
}
