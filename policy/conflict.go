package policy

import (
	"fmt"
	"strings"

	"github.com/BurntSushi/toml"
)

// A Conflict is a domain of which is not known which policy is meant: several select it, or
// its own metadata is at fault.
type Conflict struct {
	Domain  string
	Rules   []*Rule // those that select it, in the order of the file; none where its metadata is at fault
	Own     bool    // its metadata is at fault
	Problem Problem // names them all, and tells the remedy; it points at the last of them
}

// Names are the names of its policies.
func (c *Conflict) Names() []string {
	names := make([]string, len(c.Rules))
	for i, r := range c.Rules {
		names[i] = r.Name
	}
	return names
}

// conflict needs at least two rules.
func (f *File) conflict(domain string, rules []*Rule) *Conflict {
	who := make([]string, len(rules))
	for i, r := range rules {
		who[i] = fmt.Sprintf("policy %s (its domains: line %d)", r.Name, f.place(r, "domains").Line)
	}
	p := f.place(rules[len(rules)-1], "domains")
	p.Text = fmt.Sprintf("domain %q is matched by %s: take it out of all but one with exclude = [%s]",
		domain, strings.Join(who, " and by "), quote(literal(domain)))
	return &Conflict{Domain: domain, Rules: rules, Problem: p}
}

// place is where a key of the rule stands: in its own table, else in [defaults].
// Where the key is nowhere, it is the policy. The problem has no text yet.
func (f *File) place(r *Rule, name string) Problem {
	own := toml.Key{"policy", r.Name}
	for _, key := range []toml.Key{below(own, name), {"defaults", name}} {
		if f.lines.has(key) {
			return Problem{f.Path, f.lines.line(key), key.String(), ""}
		}
	}
	return Problem{f.Path, r.Line, own.String(), ""}
}
