package main

import (
	"strings"
	"testing"
)

func TestDefineIsNotForExports(t *testing.T) {
	newExport(t)
	_, errs, code := call(t, "sr", "convert", "web.xva", "--to", "out", "--define", "web")
	if code != exitUsage || !strings.Contains(errs, "are for repositories") {
		t.Errorf("exit %d, %s", code, errs)
	}
}
