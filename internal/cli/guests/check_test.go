package guests

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate"
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
