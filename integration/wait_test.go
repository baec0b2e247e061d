package integration_test

import (
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// await fails the test unless something comes about: see guest.Patience.
func (b *bed) await(what string, there func() bool) {
	b.t.Helper()
	must(b.t, guest.Await(b.t.Context(), what, func() (bool, error) { return there(), nil }))
}

// awaitIn is await for what is to come about while a run is at work.
func (b *bed) awaitIn(r *rotation, what string, there func() bool) {
	b.t.Helper()
	ended := false
	err := guest.Await(b.t.Context(), what, func() (bool, error) {
		ended = b.runEnded(r) // before the look: what a run does last counts
		return there() || ended, nil
	})
	if err != nil {
		b.t.Fatalf("%v: %v", err, r.kill())
	}
	if ended && !there() {
		b.t.Fatalf("the run has ended before %s: %v", what, r.wait())
	}
}

// runEnded tells whether a run's process is gone, or a zombie.
func (b *bed) runEnded(r *rotation) bool {
	state := b.processState(r)
	return state == "" || state == "Z"
}

// processState is the letter that the kernel has for it, "" for a process that is gone.
func (b *bed) processState(r *rotation) string {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(r.cmd.Process.Pid) + "/stat")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	state, _, _ := strings.Cut(rest, " ")
	return state
}

// A run that takes so long hangs. It is killed, and its test fails.
const runPatience = 2 * guest.Patience

// killIfItHangs is called off by its result.
func (r *rotation) killIfItHangs() (off func() bool) {
	timer := time.AfterFunc(runPatience, func() {
		r.hung.Store(true)
		_ = r.cmd.Process.Kill()
	})
	return timer.Stop
}
