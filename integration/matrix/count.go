package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// A row is what came of one suite.
type row struct {
	suite, libvirt, qemu    string
	demo                    string
	passed, failed, skipped int
	seconds                 int
	names                   []string // of the tests that failed
}

// An event is a line of go test -json, as go doc test2json tells.
type event struct{ Action, Package, Test, Output string }

// count reads events until they end, and writes what the tests print to the log. A test
// with subtests counts as one more.
func (r *row) count(events io.Reader, log io.Writer) error {
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			if err := r.take(line, log); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *row) take(line []byte, log io.Writer) error {
	var e event
	if json.Unmarshal(line, &e) != nil {
		_, err := log.Write(line) // of the go command itself
		return err
	}
	switch {
	case e.Action == "output":
		_, err := io.WriteString(log, e.Output)
		return err
	case e.Test == "" && e.Action == "fail":
		r.names = append(r.names, "package "+e.Package)
	case e.Test == "":
	case e.Action == "pass":
		r.passed++
	case e.Action == "skip":
		r.skipped++
	case e.Action == "fail":
		r.failed++
		r.names = append(r.names, e.Test)
	}
	return nil
}

// verdict is an error unless all of it passed, and something did.
func (r *row) verdict() error {
	switch {
	case r.demo == "failed":
		return errors.New("the demo failed")
	case len(r.names) > 0:
		return fmt.Errorf("failed: %s", strings.Join(slices.Compact(r.names), ", "))
	case r.skipped > 0:
		return fmt.Errorf("%d tests were skipped", r.skipped)
	case r.passed == 0:
		return errors.New("no test ran")
	}
	return nil
}
