package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/guests"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

func TestPolicyCheckComparesWithTheHost(t *testing.T) {
	for _, c := range []struct {
		name, policy string
		args         []string
		code         int
		out, errs    string
	}{
		{"all is well", goodPolicy, nil, term.ExitDone, "1 policy, no error", ""},
		{"two policies", ambiguous, nil, term.ExitUsage, "", `policy.q.domains: domain "test" is matched by policy p (its domains: line 2) and by policy q`},
		{"two policies, not asked", ambiguous, []string{"--no-host"}, term.ExitDone, "2 policies, no error", ""},
		{"a glob for nothing", "[policy.p]\ndomains = [\"test\", \"tset\"]\nkeep = { last = 1 }\ndisks = [\"hd*\", \"vda\"]\n", nil, term.ExitDone,
			`policy.toml:2: policy.p.domains: "tset" matches no domain of this host`, ""},
		{"a disk for nothing", "[policy.p]\ndomains = [\"test\"]\nkeep = { last = 1 }\ndisks = [\"hd*\", \"vda\"]\n", nil, term.ExitDone,
			`policy.toml:4: policy.p.disks: "hd*" matches no writable disk`, ""},
		{"nobody covered", "[policy.p]\ndomains = [\"*\"]\nexclude = [\"test\"]\nkeep = { last = 1 }\n", nil, term.ExitDone,
			"note: 1 of 1 domain of this host without a policy: test", ""},
		{"no connection", ambiguous, []string{"--connect", "qemu+unix:///system?socket=/no/such/socket"}, term.ExitDone, "note: not compared with the host: ", ""},
	} {
		out, errs, code := call(t, append(append(policyFile(t, c.policy), "policy", "check"), c.args...)...)
		if code != c.code || !strings.Contains(out, c.out) || !strings.Contains(errs, c.errs) || (errs == "") != (c.errs == "") {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", c.name, code, out, errs)
		}
		if c.args != nil && strings.Contains(out, "note") && strings.Count(out, "\n") != 2 {
			t.Errorf("%s: the note takes more than a line: %q", c.name, out)
		}
	}
}

func TestPolicyCheckComparesInJSON(t *testing.T) {
	check := func(text string, code int, args ...string) guests.PolicyCheckReport {
		out, errs, got := call(t, append(append(policyFile(t, text), "policy", "check", "--output=json"), args...)...)
		var r guests.PolicyCheckReport
		if err := json.Unmarshal([]byte(out), &r); err != nil || got != code || errs != "" {
			t.Errorf("exit %d, %v, stdout %s, stderr %s", got, err, out, errs)
		}
		return r
	}
	if r := check(ambiguous, term.ExitUsage); r.OK || len(r.Problems) != 1 || r.Problems[0].Line != 5 || !r.Host.Compared || r.Host.Domains != 1 {
		t.Errorf("two policies: %+v", r)
	}
	if r := check(ambiguous, term.ExitDone, "--no-host"); !r.OK || r.Host != nil {
		t.Errorf("not asked: %+v", r)
	}
	if r := check(goodPolicy, term.ExitDone, "--connect", "qemu+unix:///system?socket=/no/such/socket"); !r.OK || r.Host.Compared || r.Host.Reason == "" {
		t.Errorf("no connection: %+v", r)
	}
	if r := check("[policy.p]\ndomains = [\"x\"]\nkeep = { last = 1 }\n", term.ExitDone); !r.OK || len(r.Warnings) != 1 || len(r.Host.Uncovered) != 1 {
		t.Errorf("nobody covered: %+v", r)
	}
}
