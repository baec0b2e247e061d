package guests

import (
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
)

// plansExit is the exit status of a run or a plan.
func plansExit(plans []decide.Plan) error {
	failed, refused, changed, fine := 0, 0, 0, 0
	for _, p := range plans {
		if len(p.Steps) > 0 {
			changed++
		}
		switch {
		case p.Result == decide.ResultFailed, p.Result == decide.ResultCanceled:
			failed++
		case len(p.Refused) > 0:
			refused++
		default:
			fine++
		}
	}
	switch {
	case failed > 0 && (fine > 0 || refused > 0):
		return &term.ExitError{Code: term.ExitSome}
	case failed > 0:
		return &term.ExitError{Code: term.ExitFailed}
	case refused > 0 && changed > 0:
		return &term.ExitError{Code: term.ExitSome}
	case refused > 0:
		return &term.ExitError{Code: term.ExitRefused}
	}
	return nil
}
