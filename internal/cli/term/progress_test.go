package term

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
)

func TestProgressTellsBytesRateAndTimeLeft(t *testing.T) {
	now := time.Now()
	j := &job{asked: now.Add(-time.Hour), begun: now.Add(-5 * time.Second), first: 10 << 20}
	if got, want := j.text(35<<20, 100<<20, now), "35.0 MiB of 100.0 MiB, 5.0 MiB/s, 13s left"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := j.short(35<<20, 100<<20, now), "35%, 13s left"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := barText(25<<20, 100<<20), "[######..................]"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestProgressGoesToALogInLines(t *testing.T) {
	var out bytes.Buffer
	p := NewProgress(&out)
	p.Every = 0
	done := p.Copying("merge", 100<<20)
	time.Sleep(drawEvery)
	done(25 << 20)
	done(25 << 20) // too soon
	p.End()
	if got := out.String(); !strings.HasPrefix(got, "merge [######") || strings.Count(got, "\n") != 1 {
		t.Errorf("%q", got)
	}
}

// What a log gets: all, only what somebody may have to see to, or nothing but a fault.
func TestHowMuchGoesToALog(t *testing.T) {
	merge := decide.Step{Op: decide.OpMerge, Disk: "vda", Bytes: 1 << 20}
	for _, c := range []struct {
		brief, quiet bool
		want         string
	}{
		{false, false, "web/vda [........................] 10 B of 1.0 MiB|web/vda: merged 1.0 MiB|web: warning: w|web: panic"},
		{true, false, "web: warning: w|web: panic"},
		{false, true, "web: panic"},
	} {
		var out bytes.Buffer
		p := NewProgress(&out)
		p.Every, p.Brief, p.Quiet = 0, c.brief, c.quiet
		p.Report(rotate.Event{Kind: rotate.EventStep, Domain: "web", Step: merge})
		p.Report(rotate.Event{Kind: rotate.EventProgress, Domain: "web", Step: merge, Done: 10, Total: 1 << 20})
		p.Report(rotate.Event{Kind: rotate.EventDone, Domain: "web", Step: merge})
		p.Report(rotate.Event{Kind: rotate.EventWarning, Domain: "web", Text: "w"})
		p.Report(rotate.Event{Kind: rotate.EventFault, Domain: "web", Text: "panic"})
		p.Over("web")
		p.End()
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		want := strings.Split(c.want, "|")
		ok := len(lines) == len(want)
		for i := range want {
			ok = ok && strings.HasPrefix(lines[i], want[i])
		}
		if !ok {
			t.Errorf("brief %t, quiet %t: %q, want %q", c.brief, c.quiet, lines, want)
		}
	}
}

func TestALongNameLeavesRoomForTheBar(t *testing.T) {
	if got := nameText("a-guest-with-quite-a-name/vda", 40); got != "…e-a-name/vda" {
		t.Errorf("%q", got)
	}
	if got := nameText("web/vda", 40); got != "web/vda" {
		t.Errorf("%q", got)
	}
}
