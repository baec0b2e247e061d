package term

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestProgressTellsBytesRateAndTimeLeft(t *testing.T) {
	got := progressText("web/vda", 25<<20, 100<<20, 5*time.Second)
	want := "web/vda [######..................] 25.0 MiB of 100.0 MiB, 5.0 MiB/s, 15s left"
	if got != want {
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
