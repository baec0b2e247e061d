package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// Namespace is that of the element <policy> in a domain's metadata.
const Namespace = "https://github.com/virt-rotate/virt-rotate/ns/policy"

// Metadata says what the metadata of domains may do.
type Metadata struct {
	Allow bool // a domain's own element <policy> counts
}

func metadataFields(m *Metadata) []field { return []field{yesNo("allow", &m.Allow)} }

// Own is the element <policy> of a domain's metadata:
//
//	<policy name="web"/>                                that policy, whatever the globs say
//	<policy enabled="no"/>                              none
//	<policy>every = "6h"</policy>                       the one that the globs select, with other values
//	<policy name="web">keep = { last = 14 }</policy>    both
type Own struct {
	Name    string // of a policy; "" = the one that selects the domain
	Enabled string // yes, no, or "" for yes
	Text    string // keys of a policy, in TOML
	Problem string // why the element could not be read, or ""
}

// MaxOwn is how many bytes of keys are read.
const MaxOwn = 16 << 10

// MatchGuests is Match for domains that may say themselves which policy is theirs, and what
// is different about it. That counts only where the file allows it.
func (f *File) MatchGuests(guests []Guest) Assignment {
	a := Assignment{map[string]*Rule{}, map[string]*Conflict{}}
	for _, g := range guests {
		rule, conflict := f.ruleOf(&g)
		switch {
		case conflict != nil:
			a.Conflicts[g.Name] = conflict
		case rule != nil:
			a.Rules[g.Name] = rule
		}
	}
	return a
}

// ruleOf is the rule of a domain, or why it has none; neither where nothing is about it.
func (f *File) ruleOf(g *Guest) (*Rule, *Conflict) {
	own := g.Own
	if own == nil || !f.Metadata.Allow {
		own = &Own{}
	}
	switch {
	case own.Problem != "":
		return nil, ownFault(g, own.Problem)
	case own.Enabled == "no":
		return nil, nil
	case own.Enabled != "" && own.Enabled != "yes":
		return nil, ownFault(g, fmt.Sprintf("enabled=%s: want yes or no", quote(own.Enabled)))
	}
	rules := f.matching(g.Name)
	if own.Name != "" {
		i := slices.IndexFunc(f.Rules, func(r Rule) bool { return r.Name == own.Name })
		if i < 0 {
			return nil, ownFault(g, fmt.Sprintf("name=%s: %s has no such policy", quote(own.Name), f.Path))
		}
		rules = []*Rule{&f.Rules[i]}
	}
	switch {
	case len(rules) > 1:
		return nil, f.conflict(g.Name, rules)
	case own.Text == "":
		return onlyOf(rules), nil
	case len(rules) == 0:
		return nil, ownFault(g, "it has values, but no policy that they are for: no policy selects the domain, and it names none")
	}
	return override(g, rules[0])
}

func onlyOf(rules []*Rule) *Rule {
	if len(rules) == 0 {
		return nil
	}
	return rules[0]
}

// override is the rule with the domain's own values.
func override(g *Guest, base *Rule) (*Rule, *Conflict) {
	if len(g.Own.Text) > MaxOwn {
		return nil, ownFault(g, fmt.Sprintf("%d bytes of keys, more than %d", len(g.Own.Text), MaxOwn))
	}
	var root map[string]any
	if _, err := toml.Decode(g.Own.Text, &root); err != nil {
		return nil, ownFault(g, syntaxProblem("", err).Text)
	}
	r := base.clone()
	p := &parser{path: ownPlace(g), lines: indexLines(g.Own.Text)}
	p.checkRepeated()
	p.table(nil, root, ownFields(&r))
	p.checkKeep(&r, nil)
	if err := p.problems.err(); err != nil {
		return nil, ownFault(g, strings.ReplaceAll(withoutPlace(p.problems), "\n", "; "))
	}
	return &r, nil
}

// withoutPlace tells key and text of each problem.
func withoutPlace(problems Problems) string {
	texts := make([]string, len(problems))
	for i, p := range problems.sorted() {
		texts[i] = p.Key + ": " + p.Text
	}
	return strings.Join(texts, "; ")
}

// ownFields are the keys that a domain may set: those that are about its snapshots. Programs
// that run with our rights and places outside of its images are for the policy file alone.
func ownFields(r *Rule) []field {
	return slices.DeleteFunc(inheritable(r), func(f field) bool {
		return f.key == "hooks" || f.key == "overlay_dir" || f.key == "detach"
	})
}

// clone copies the rule with its lists.
func (r *Rule) clone() Rule {
	c := *r
	for _, list := range []*[]string{&c.Domains, &c.Exclude, &c.Disks, &c.ExcludeDisks, &c.Hooks.Before, &c.Hooks.After, &c.Hooks.Failed} {
		*list = slices.Clone(*list)
	}
	return c
}

func ownPlace(g *Guest) string { return "metadata of " + g.Name }

// ownFault is about an element <policy> by which nothing can be decided.
func ownFault(g *Guest, text string) *Conflict {
	return &Conflict{Domain: g.Name, Own: true, Problem: Problem{File: ownPlace(g), Key: "policy", Text: text}}
}
