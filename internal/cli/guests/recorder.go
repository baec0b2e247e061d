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

	mu    sync.Mutex // guards what follows, and the store
	texts []string   // what was told
}

func newRecorder(command, stateDir string, warn func(string)) *recorder {
	return &recorder{command: command, store: history.In(stateDir), warn: warn}
}

// record may be called from several goroutines.
func (r *recorder) record(p decide.Plan) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.store.Append(entry(r.command, &p))
	if err != nil {
		r.tellLocked("history: " + err.Error())
	}
}

// tell warns of what is no part of a domain's work, now and in the report.
func (r *recorder) tell(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tellLocked(text)
}

// tellLocked says nothing twice.
func (r *recorder) tellLocked(text string) {
	if slices.Contains(r.texts, text) {
		return
	}
	r.texts = append(r.texts, text)
	r.warn(text)
}

// entry is the record of a domain whose work is over.
func entry(command string, p *decide.Plan) history.Entry {
	ran := p.Ran
	if ran == nil { // it was only planned
		ran = &decide.Ran{}
	}
	e := history.Entry{Command: command, Domain: p.Domain, Policy: p.Policy, Result: p.Result, Error: p.Error, Warnings: p.Warnings,
		Start: ran.Start.UTC(), End: ran.End.UTC(), UUID: ran.UUID,
		Took:   ran.End.Sub(ran.Start).Seconds(),
		Merged: ran.Merged, Freed: ran.Freed, Allocated: ran.Allocated, Layers: ran.Layers}
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
