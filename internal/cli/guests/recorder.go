package guests

import (
	"slices"
	"sync"

	"github.com/virt-rotate/virt-rotate/internal/history"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
)

// A recorder writes what became of each domain into the history. What goes wrong with that
// is told and changes nothing else.
type recorder struct {
	command string
	store   *history.Store
	warn    func(text string)

	mu     sync.Mutex // guards what follows, and the store
	failed error      // the last error; the same one is told once
	texts  []string   // what was told
}

func newRecorder(command, stateDir string, warn func(string)) *recorder {
	return &recorder{command: command, store: history.In(stateDir), warn: warn}
}

// record may be called from several goroutines.
func (r *recorder) record(p decide.Plan) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.store.Append(entry(r.command, &p))
	if err == nil || r.failed != nil && err.Error() == r.failed.Error() {
		return
	}
	r.failed = err
	r.tellLocked("history: " + err.Error())
}

// tell warns of what is no part of a domain's work, now and in the report.
func (r *recorder) tell(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tellLocked(text)
}

func (r *recorder) tellLocked(text string) {
	if slices.Contains(r.texts, text) {
		return
	}
	r.texts = append(r.texts, text)
	r.warn(text)
}

// entry is the record of a domain whose work is over.
func entry(command string, p *decide.Plan) history.Entry {
	e := history.Entry{Command: command, Domain: p.Domain, Policy: p.Policy, Result: p.Result, Error: p.Error, Warnings: p.Warnings,
		Start: p.Ran.Start.UTC(), End: p.Ran.End.UTC(), UUID: p.Ran.UUID,
		Took:   p.Ran.End.Sub(p.Ran.Start).Seconds(),
		Merged: p.Ran.Merged, Freed: p.Ran.Freed, Allocated: p.Ran.Allocated, Layers: p.Ran.Layers}
	if p.MergesWait {
		e.Waiting = p.Waiting
	}
	for _, f := range p.Refused {
		e.Refused = append(e.Refused, history.Refusal(f))
	}
	for _, s := range p.Steps {
		e.Steps = append(e.Steps, history.Step{Op: string(s.Op), Snapshot: s.Snapshot, Disk: s.Disk, Method: s.Method, Top: s.Top, Base: s.Base, Path: s.Path, Bytes: s.Bytes})
	}
	return e
}
