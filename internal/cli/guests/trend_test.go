package guests

import (
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/history"
	"github.com/virt-rotate/virt-rotate/rotate"
)

func TestStatusTellsLastSuccessAndTrend(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	ago := func(h int) time.Time { return now.Add(-time.Duration(h) * time.Hour) }
	entries := []history.Entry{
		{End: ago(99), Domain: "web", UUID: "another", Command: "run", Result: "done", Allocated: 1},
		{End: ago(72), Domain: "web", UUID: "u", Command: "run", Result: "done", Allocated: 10 << 30, Layers: 4, Merged: 1 << 30, Freed: 1 << 29},
		{End: ago(60), Domain: "db", UUID: "u", Command: "run", Result: "done", Allocated: 2},
		{End: ago(50), Domain: "web", UUID: "u", Command: "restore", Result: "done", Allocated: 3},
		{End: ago(48), Domain: "web", UUID: "u", Command: "run", Result: "nothing-to-do", Allocated: 11 << 30, Layers: 4},
		{End: ago(1), Domain: "web", UUID: "u", Command: "run", Result: "failed", Allocated: 12 << 30, Layers: 5, Merged: 1 << 30},
	}
	s := withTrend(rotate.DomainStatus{Name: "web", LastRun: &rotate.LastRun{Result: "failed"}}, "u", entries)
	if got, want := s.trendText(), "10.0 GiB → 12.0 GiB on disk, 4 → 5 layers in 2d; merged 2.0 GiB, freed 512.0 MiB"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if s.LastSuccess == nil || !s.LastSuccess.Equal(ago(48)) || s.successText(now) != "2d ago" {
		t.Errorf("last success %v, %q", s.LastSuccess, s.successText(now))
	}
	s = withTrend(rotate.DomainStatus{Name: "web", LastRun: &rotate.LastRun{Result: "failed"}}, "u", entries[5:])
	if s.LastSuccess != nil || s.successText(now) != "none on record" || s.trendText() != "" {
		t.Errorf("%+v %q %q", s, s.successText(now), s.trendText())
	}
	if s = withTrend(rotate.DomainStatus{Name: "web"}, "u", nil); s.Trend == nil || s.trendText() != "" || s.successText(now) != "" {
		t.Errorf("%+v", s)
	}
}
