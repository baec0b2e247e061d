package term

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/termtest"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
)

// drawEnv makes the test binary draw bars on its terminal.
const drawEnv = "TERM_TEST_DRAW"

// draw shows two merges, a quarter and a half of which is done, until it is killed.
func draw() {
	p := NewProgress(os.Stderr)
	merge := func(done int64, domains ...string) {
		for _, d := range domains {
			p.Report(rotate.Event{Kind: rotate.EventProgress, Domain: d, Step: decide.Step{Op: decide.OpMerge, Disk: "vda"}, Done: done, Total: 400 << 20})
		}
	}
	merge(0, "web", "a-database-with-a-name-that-is-long")
	time.Sleep(time.Second)
	p.Report(rotate.Event{Kind: rotate.EventWarning, Domain: "web", Text: "something to see to"})
	for {
		merge(100<<20, "web")
		merge(200<<20, "a-database-with-a-name-that-is-long")
		time.Sleep(drawEvery)
	}
}

// Several merges at once, on terminals of several widths, and on one that is made narrower
// or wider: no piece of a bar is left over. What is above the bars may be scrolled away then,
// but it is not lost.
func TestBarsOnARealTerminal(t *testing.T) {
	const (
		warning = "web: warning: something to see to\n"
		long    = `web/vda +\[#{15,}\.{30,}\] 100\.0 MiB of 400\.0 MiB, [0-9.]+ [KMG]iB/s, [0-9hms]+ left\n` +
			`a-database-with-a-name-that-is-long/vda +\[#{30,}\.{30,}\] 200\.0 MiB of 400\.0 MiB, [0-9.]+ [KMG]iB/s, [0-9hms]+ left`
		short = `web/vda +\[#+\.+\] 25%, [0-9hms]+ left\n…[a-z-]+/vda +\[#+\.+\] 50%, [0-9hms]+ left`
	)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]struct{ width, want string }{
		{{"200", long}, {"80", short}},
		{{"80", short}, {"50", short}},
		{{"40", short}, {"200", long}},
	} {
		s := termtest.Start(t, c[0].width, drawEnv+"=1 "+exe)
		s.Shows(warning + c[0].want)
		s.Resize(c[1].width)
		s.Shows("(" + warning + ")?" + c[1].want)
		if all := s.All(); strings.Count(all, warning) != 1 {
			t.Errorf("in all, the terminal shows\n%s", all)
		}
	}
}
