package guests

import (
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

func TestExitStatusOfPlans(t *testing.T) {
	step := []decide.Step{{Op: decide.OpMerge}}
	refused := []decide.Refusal{{Code: host.CodeNoSpace}}
	for _, c := range []struct {
		name  string
		plans []decide.Plan
		want  int
	}{
		{"nothing", nil, term.ExitDone},
		{"done", []decide.Plan{{Result: decide.ResultDone, Steps: step}}, term.ExitDone},
		{"skipped", []decide.Plan{{Result: decide.ResultSkipped}}, term.ExitDone},
		{"failed", []decide.Plan{{Result: decide.ResultFailed}}, term.ExitFailed},
		{"one failed", []decide.Plan{{Result: decide.ResultFailed}, {Result: decide.ResultDone, Steps: step}}, term.ExitSome},
		{"refused", []decide.Plan{{Result: decide.ResultRefused, Refused: refused}}, term.ExitRefused},
		{"refused, others had nothing to do", []decide.Plan{{Result: decide.ResultRefused, Refused: refused}, {Result: decide.ResultNothing}}, term.ExitRefused},
		{"one refused, one done", []decide.Plan{{Result: decide.ResultRefused, Refused: refused}, {Result: decide.ResultDone, Steps: step}}, term.ExitSome},
		{"partly", []decide.Plan{{Result: decide.ResultPartly, Refused: refused, Steps: step}}, term.ExitSome},
		{"canceled", []decide.Plan{{Result: decide.ResultCanceled}}, term.ExitFailed},
	} {
		if got := term.ExitCode(plansExit(c.plans)); got != c.want {
			t.Errorf("%s: exit %d, want %d", c.name, got, c.want)
		}
	}
}
