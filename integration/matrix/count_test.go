package main

import (
	"os"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/tidy"
)

func TestMain(m *testing.M) { os.Exit(tidy.Run(m.Run)) }

func TestEventsAreCounted(t *testing.T) {
	const events = `{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"said\n"}
{"Action":"pass","Package":"p","Test":"TestA/one"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p","Test":"TestB"}
not of a test
{"Action":"skip","Package":"p","Test":"TestC"}
{"Action":"fail","Package":"p"}`
	var r row
	var log strings.Builder
	if err := r.count(strings.NewReader(events), &log); err != nil {
		t.Fatal(err)
	}
	if r.passed != 2 || r.failed != 1 || r.skipped != 1 {
		t.Errorf("%+v", r)
	}
	if got := log.String(); got != "said\nnot of a test\n" {
		t.Errorf("log %q", got)
	}
	if err := r.verdict(); err == nil || err.Error() != "failed: TestB, package p" {
		t.Errorf("verdict %v", err)
	}
}

func TestOnlyAWholeRunPasses(t *testing.T) {
	for name, r := range map[string]row{
		"nothing ran":     {demo: "passed"},
		"demo failed":     {demo: "failed", passed: 3},
		"skipped":         {demo: "passed", passed: 3, skipped: 1},
		"package aborted": {demo: "passed", passed: 3, names: []string{"package p"}},
	} {
		if r.verdict() == nil {
			t.Errorf("%s: passed", name)
		}
	}
	if err := (&row{demo: "passed", passed: 3}).verdict(); err != nil {
		t.Error(err)
	}
}
