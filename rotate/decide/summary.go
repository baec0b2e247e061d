package decide

// A Summary is a run in figures.
type Summary struct {
	Domains int   `json:"domains"`
	Done    int   `json:"done"`    // domains to which something was done, nothing refused
	Nothing int   `json:"nothing"` // domains with nothing to do, or left alone
	Refused int   `json:"refused"` // domains of which something was refused
	Failed  int   `json:"failed"`  // domains that failed or were interrupted
	Steps   int   `json:"steps"`   // of all domains
	Merged  int64 `json:"merged"`  // bytes in the layers that were merged
	Freed   int64 `json:"freed"`   // bytes given back by deleting files
	Taken   int   `json:"taken"`   // domains of which a snapshot was taken
}

// Summarize adds up what a run did.
func Summarize(plans []Plan) Summary {
	s := Summary{Domains: len(plans)}
	for i := range plans {
		s.count(&plans[i])
	}
	return s
}

func (s *Summary) count(p *Plan) {
	switch p.Result {
	case ResultFailed, ResultCanceled:
		s.Failed++
	case ResultRefused, ResultPartly:
		s.Refused++
	case ResultDone:
		s.Done++
	default:
		s.Nothing++
	}
	s.Steps += len(p.Steps)
	taken := 0
	for i := range p.Steps {
		switch step := &p.Steps[i]; step.Op {
		case OpSnapshot:
			taken = 1
		case OpMerge:
			s.Merged += step.Bytes
		case OpDeleteFile:
			s.Freed += step.Bytes
		}
	}
	s.Taken += taken
}
