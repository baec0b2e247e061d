package vfstest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
)

// faults is what tests have ordered, and the counts it goes by. The Mem's mu
// guards it.
type faults struct {
	ops, changes int
	log          []string

	hookAt int // a number of changes
	hook   func()

	failAt  int // a number of ops
	failErr error
	sticky  bool

	noSync func(path string, nth int) bool
	syncs  map[string]int // by path, those that were ignored too
}

// step is one operation.
type step struct {
	op, path, detail string
	change           bool
	run              func() error
	failed           func(error, *rand.Rand) // what happens when an error is injected
}

// Before has hook run once, right before the n-th change from now on, 1 being
// the next. Changes are each WriteAt, Truncate, Punch, Copy, Sync, SyncDir,
// Create, Rename and removal, and the steps of WriteFile and RemoveExact. The
// hook may use m.
func (m *Mem) Before(n int, hook func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hookAt, m.hook = m.changes+n, hook
}

// Changes is how many changes have begun, failed ones included.
func (m *Mem) Changes() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changes
}

// Ops is how many operations have begun: changes and everything else that can
// fail, which is all but Close and Path.
func (m *Mem) Ops() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ops
}

// FailAt lets the n-th operation from now on fail with err, 1 being the next,
// and all after it when sticky. A write and a copy may have done a part; a Sync
// makes nothing durable, and what was unsynced then is not made durable by a
// later one either, although it can still be read.
func (m *Mem) FailAt(n int, err error, sticky bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failAt, m.failErr, m.sticky = m.ops+n, err, sticky
}

// NoSync makes the calls of Sync and SyncDir that match do nothing and succeed:
// a crash test that does not go red then proves nothing. nth counts the calls
// for that path from 1. WriteFile syncs its temporary file, then the directory.
// Nil ends it.
func (m *Mem) NoSync(match func(path string, nth int) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.noSync, m.syncs = match, map[string]int{}
}

// ignored counts a sync of path and tells whether it is to do nothing.
func (m *Mem) ignored(path string) bool {
	if m.noSync == nil {
		return false
	}
	m.syncs[path]++
	return m.noSync(path, m.syncs[path])
}

// Log lists the changes so far, with their numbers.
func (m *Mem) Log() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.log)
}

// do counts s and carries it out, or lets it fail.
func (m *Mem) do(s step) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.change {
		m.changes++
		m.runHook()
	}
	m.ops++
	err := m.injected(s)
	if err == nil {
		err = s.run()
	} else if s.failed != nil {
		s.failed(err, chance(uint64(m.ops), 1))
	}
	m.note(s, err)
	return err
}

// runHook gives mu away meanwhile, and has it again even if the hook ends the
// goroutine.
func (m *Mem) runHook() {
	if m.hook == nil || m.changes != m.hookAt {
		return
	}
	hook := m.hook
	m.hook = nil
	m.mu.Unlock()
	defer m.mu.Lock()
	hook()
}

func (m *Mem) injected(s step) error {
	if m.failErr == nil || m.ops != m.failAt && (!m.sticky || m.ops < m.failAt) {
		return nil
	}
	return &os.PathError{Op: s.op, Path: s.path, Err: m.failErr}
}

func (m *Mem) note(s step, err error) {
	if !s.change {
		return
	}
	line := fmt.Sprintf("%d %s %s", m.changes, s.op, s.path)
	if s.detail != "" {
		line += " " + s.detail
	}
	if err != nil {
		line += ": " + err.Error()
	}
	m.log = append(m.log, line)
}
