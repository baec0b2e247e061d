package main

import (
	"fmt"
	"runtime/debug"
	"strings"
)

// The linker sets these; see the Makefile.
var version, commit, date string

// versionText tells version, commit and date. What the linker was not told comes from the
// build's own record: go install has the module's version there, go build the commit.
func versionText(version, commit, date string, info *debug.BuildInfo) string {
	if info != nil && version == "" {
		version = strings.TrimPrefix(info.Main.Version, "v")
	}
	if info != nil && commit == "" {
		commit, date = recorded(info)
	}
	if version == "" || version == "(devel)" {
		version = "dev"
	}
	if commit == "" {
		return version
	}
	return fmt.Sprintf("%s (commit %s, %s)", version, commit, date)
}

// recorded finds the commit and its day.
func recorded(info *debug.BuildInfo) (commit, date string) {
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	commit = settings["vcs.revision"]
	commit = commit[:min(len(commit), 12)]
	if settings["vcs.modified"] == "true" {
		commit += ".dirty"
	}
	date, _, _ = strings.Cut(settings["vcs.time"], "T")
	return commit, date
}
