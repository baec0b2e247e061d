package main

import (
	"runtime/debug"
	"testing"
)

func TestVersionTellsWhatIsKnown(t *testing.T) {
	module := debug.Module{Version: "v0.3.0"}
	vcs := []debug.BuildSetting{
		{Key: "vcs.revision", Value: "0123456789abcdef0123"},
		{Key: "vcs.time", Value: "2026-11-28T06:07:08Z"},
		{Key: "vcs.modified", Value: "true"},
	}
	for _, c := range []struct {
		version, commit, date string
		info                  *debug.BuildInfo
		want                  string
	}{
		{"0.2.0", "abc", "2026-11-28", nil, "0.2.0 (commit abc, 2026-11-28)"},
		{"0.2.0", "abc", "2026-11-28", &debug.BuildInfo{Main: module, Settings: vcs}, "0.2.0 (commit abc, 2026-11-28)"},
		{"", "", "", &debug.BuildInfo{Main: module}, "0.3.0"},
		{"", "", "", &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: vcs}, "dev (commit 0123456789ab.dirty, 2026-11-28)"},
		{"", "", "", &debug.BuildInfo{}, "dev"},
		{"", "", "", nil, "dev"},
	} {
		if got := versionText(c.version, c.commit, c.date, c.info); got != c.want {
			t.Errorf("%q %q %q: %q, want %q", c.version, c.commit, c.date, got, c.want)
		}
	}
}
