package guests

import (
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/history"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
)

// ran is a run of web that began at that hour.
func ran(hour int, result, waiting string, codes ...string) history.Entry {
	start := time.Date(2026, 1, 1, hour, 0, 0, 0, time.UTC)
	e := history.Entry{Start: start, End: start.Add(time.Minute), Command: "run", Domain: "web", UUID: "u", Result: result, Waiting: waiting, Runs: 1}
	for _, c := range codes {
		e.Refused = append(e.Refused, history.Refusal{Code: c})
	}
	return e
}

func TestThePastTellsSinceWhenThingsAreSo(t *testing.T) {
	other, restored := ran(0, decide.ResultFailed, ""), ran(9, decide.ResultDone, "")
	other.UUID, restored.Command = "v", "restore"
	p := pastOf("web", "u", []history.Entry{
		other,
		ran(1, decide.ResultFailed, "w", "a"),
		ran(2, decide.ResultDone, ""),
		ran(3, decide.ResultPartly, "w", "a", "b"),
		ran(4, decide.ResultPartly, "other words", "b", "c"),
		ran(5, decide.ResultFailed, "w", "a", "b"),
		ran(6, decide.ResultCanceled, "w", "a", "b"),
		restored,
	}, map[string]rotate.LastRun{"u": {Result: decide.ResultCanceled}})
	hour := func(t *time.Time) int {
		if t == nil {
			return -1
		}
		return t.Hour()
	}
	if hour(p.First) != 1 || hour(p.LastSuccess) != 2 || hour(p.Failed) != 5 || hour(p.Waiting) != 3 || p.LastRun == nil || p.LastRun.Result != decide.ResultCanceled {
		t.Errorf("%+v", p)
	}
	if len(p.Refused) != 2 || p.Refused["a"].Hour() != 5 || p.Refused["b"].Hour() != 3 {
		t.Errorf("refused since %v", p.Refused)
	}
	if p := pastOf("web", "none", nil, nil); p.First != nil || p.LastRun != nil || len(p.Refused) != 0 {
		t.Errorf("nothing on record: %+v", p)
	}
}
