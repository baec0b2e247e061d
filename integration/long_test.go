package integration_test

import (
	"os"
	"testing"
)

// Tests with real guests take seconds of both processors each. make test has each kind of situation; what shows the same once
// more, on another disk, at another place, for other nights, is for make guests.

// everything tells whether all is to be tried.
func everything() bool { return os.Getenv("VIRT_ROTATE_GUESTS") == "all" || everyPlace() }

// long leaves a test to make guests: of what it shows the simulated host has a test in make test, which real guests have shown to be
// right in others.
func long(t *testing.T) {
	t.Helper()
	if !everything() {
		t.Skip("make guests has it tried")
	}
}

// few are n of the cases, from one end to the other; all of them in make guests.
func few[T any](cases []T, n int) (some []T) {
	if everything() {
		return cases
	}
	n = min(n, len(cases))
	for i := range n {
		some = append(some, cases[i*len(cases)/n])
	}
	return some
}

// sparse is how many places a sweep goes on by at a time.
func sparse(step int) int {
	switch {
	case everyPlace():
		return 1
	case everything():
		return step
	}
	return 3 * step
}

// often is how many times over something is done.
func often(all, some int) int {
	if everything() {
		return all
	}
	return some
}
