package rotate

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// codesInSource are the codes that host declares.
func codesInSource(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("host/codes.go")
	hosttest.Must(err)
	var codes []string
	for _, m := range regexp.MustCompile(`(?m)^\tCode\w+ += "([^"]+)"`).FindAllStringSubmatch(string(text), -1) {
		codes = append(codes, m[1])
	}
	if len(codes) < 40 {
		t.Fatalf("only %d codes found", len(codes))
	}
	return codes
}

// Whatever a plan refuses, doctor tells, with a remedy, and status lists.
func TestDoctorTellsWhatAPlanRefuses(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range situations() {
		seen[s.code] = true
		t.Run(strings.TrimSpace(s.code+" "+s.name), s.checkTold)
	}
	for _, code := range codesInSource(t) {
		if seen[code] == (notOfAPlan[code] != "") {
			t.Errorf("code %q: it needs a situation in which a plan refuses with it, or a reason why none does", code)
		}
	}
}

func (s situation) checkTold(t *testing.T) {
	h, r := s.host(t)
	w, err := r.Observer.Observe(t.Context())
	hosttest.Must(err)
	web := w.Domain("web")
	if s.change != nil {
		s.change(w, web)
	}
	rules := r.Match(guests("web"))
	rule := rules.Rules["web"]
	p := decide.Decide(w, web, rule, hosttest.Hour(12), decide.Options{})
	if !slices.ContainsFunc(p.Refused, func(r decide.Refusal) bool { return r.Code == s.code }) {
		t.Fatalf("refused: %+v", p.Refused)
	}
	found := decide.Diagnose(w, nil, rules, hosttest.Hour(12))
	for _, r := range p.Refused {
		if !slices.ContainsFunc(found, func(f decide.Finding) bool { return tells(f, web, r) }) {
			t.Errorf("doctor does not tell %s, but %s", h.Brief(r.Code+" "+r.Detail), findingLines(h, found))
		}
	}
	if st := Status(w, web, rule, nil, hosttest.Hour(12)); !reflect.DeepEqual(st.Refused, p.Refused) {
		t.Errorf("status: %+v", st.Refused)
	}
	v := Check(w, web, rules, Past{}, hosttest.Hour(12))
	for _, r := range p.Refused {
		if v.Level == OK || !slices.ContainsFunc(v.Reasons, func(x Reason) bool { return x.Code == r.Code && x.Path == r.Path && x.Detail == r.Detail }) {
			t.Errorf("check does not tell %s, but %+v", h.Brief(r.Code+" "+r.Detail), v.Reasons)
		}
	}
}

// tells tells whether the finding is about that refusal.
func tells(f decide.Finding, d *host.Domain, r decide.Refusal) bool {
	if f.Remedy == "" || f.Domain != d.Name || f.Note {
		return false
	}
	if r.Code == host.CodeUnreadable && r.Detail == d.Problem {
		return f.Code == decide.FindStrange && f.Detail == d.Problem
	}
	return f.Code == decide.FindingOf(d, r).Code && (f.Path == r.Path || f.Path == "" || r.Path == "")
}

func findingLines(h *hosttest.Host, found []decide.Finding) string {
	text := ""
	for _, f := range found {
		text += "\n" + h.Brief(f.Code+" "+f.Path+": "+f.Detail)
	}
	return text
}

func TestDoctorTellsOfTwoPolicies(t *testing.T) {
	h, r, _ := contested(t)
	w := see(h, t)
	both := w.Domain("both")
	rules := r.Match(guests("web", "both", "db"))
	p := decide.ConflictPlan(both, rules.Conflicts["both"])
	found := decide.Diagnose(w, []string{"both"}, rules, hosttest.Hour(12))
	if len(found) != 1 || !tells(found[0], both, p.Refused[0]) {
		t.Errorf("%+v", found)
	}
	if s := ConflictStatus(w, both, rules.Conflicts["both"], nil); !reflect.DeepEqual(s.Refused, p.Refused) {
		t.Errorf("status: %+v", s.Refused)
	}
}

// A domain that could not be read in full is told with all else that is in its way.
func TestDoctorTellsAllOfADomainThatCannotBeRead(t *testing.T) {
	h, w := spoiled(t, func(_ *testing.T, _ *hosttest.Host, web *hosttest.Domain) {
		web.Problem, web.ManagedSave, web.State = "no such thing", true, "migrating"
	})
	found := decide.Diagnose(w, nil, policy.Assignment{Rules: map[string]*policy.Rule{"web": rule(1)}}, hosttest.Hour(12))
	var codes []string
	for _, f := range found {
		codes = append(codes, f.Code)
	}
	if !slices.Equal(codes, []string{decide.FindStrange, host.CodeManagedSave, host.CodeState}) {
		t.Errorf("%v%s", codes, findingLines(h, found))
	}
}
