package guests

import (
	"time"

	"github.com/virt-rotate/virt-rotate/internal/history"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
)

// pastEntries is how far back check looks for a domain.
const pastEntries = 200

// pastOf is what the history tells of the runs of this very domain: its name can have been
// another's. The entries come oldest first.
func pastOf(domain, uuid string, entries []history.Entry, last map[string]rotate.LastRun) rotate.Past {
	p := rotate.Past{Refused: map[string]time.Time{}}
	if r, ok := last[uuid]; ok {
		p.LastRun = &r
	}
	for i := range entries {
		if e := &entries[i]; e.Domain == domain && e.UUID == uuid && e.Command == "run" {
			note(&p, e)
		}
	}
	return p
}

// note takes the next run in: what it does not tell any more is over.
func note(p *rotate.Past, e *history.Entry) {
	if p.First == nil {
		p.First = &e.Start
	}
	if succeeded(e.Result) {
		p.LastSuccess = &e.End
	}
	p.Failed = lasts(p.Failed, e, e.Result == decide.ResultFailed || e.Result == decide.ResultCanceled)
	p.Waiting = lasts(p.Waiting, e, e.Waiting != "")
	refused := map[string]time.Time{}
	for _, r := range e.Refused {
		refused[r.Code] = e.Start
		if since, ok := p.Refused[r.Code]; ok {
			refused[r.Code] = since
		}
	}
	p.Refused = refused
}

// lasts is since when runs in a row have been so.
func lasts(since *time.Time, e *history.Entry, so bool) *time.Time {
	switch {
	case !so:
		return nil
	case since == nil:
		return &e.Start
	}
	return since
}
