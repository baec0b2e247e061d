package policy

import (
	"fmt"
	"strings"

	"github.com/BurntSushi/toml"
)

// maxName leaves room for the stem, the time and the suffix in an overlay's
// file name: NAME_MAX is 255 bytes.
const maxName = 64

// checkRepeated finds keys that are set twice. The TOML library refuses most
// of them, but not arrays, of which it silently takes the last.
func (p *parser) checkRepeated() {
	for _, r := range p.lines.repeated {
		text := fmt.Sprintf("set already in line %d", p.lines.line(r.key))
		p.problems = append(p.problems, Problem{p.path, r.line, r.key.String(), text})
	}
}

// checkRule finds what no single value shows.
func (p *parser) checkRule(r *Rule, at toml.Key) {
	if !validName(r.Name) {
		p.add(at, "want a name of 1 to %d letters, digits, '_', '-' or '.', the first not '-' or '.': it becomes part of file names", maxName)
	}
	if domains := below(at, "domains"); len(r.Domains) == 0 && !p.metadata && !p.faulty(domains) {
		p.add(domains, `names no domain; write domains = ["…"] with names or globs`)
	}
	p.checkKeep(r, at)
	p.checkAges(r, at)
}

func (p *parser) checkKeep(r *Rule, at toml.Key) {
	if r.Keep.None() && p.sound(at, "keep") && !p.saysKeep(at) {
		p.add(below(at, "keep"), "does not say what to keep: set at least one of last, hourly, daily, weekly, monthly, yearly, here or in [defaults]; 0 keeps nothing")
	}
	if r.Keep.Last+1 > r.MaxChain && p.sound(at, "max_chain") {
		p.add(p.culprit(at), "%d snapshots need a chain of %d layers, more than max_chain %d",
			r.Keep.Last, r.Keep.Last+1, r.MaxChain)
	}
}

// saysKeep reports whether a count is set, if only to 0, by the policy or for
// it: who wants to keep nothing has to say so.
func (p *parser) saysKeep(at toml.Key) bool {
	for _, count := range []string{"last", "hourly", "daily", "weekly", "monthly", "yearly"} {
		if p.lines.has(below(at, "keep", count)) || p.lines.has(toml.Key{"defaults", "keep", count}) {
			return true
		}
	}
	return false
}

// sound reports whether nothing is wrong with a key of the policy, nor with
// what it inherits there.
func (p *parser) sound(at toml.Key, name string) bool {
	return !p.faulty(below(at, name)) && !p.faulty(toml.Key{"defaults", name})
}

// culprit is the key to blame when keep.last and max_chain do not fit: the
// one that the policy itself sets, else the one of the defaults.
func (p *parser) culprit(at toml.Key) toml.Key {
	keys := []toml.Key{
		below(at, "keep", "last"), below(at, "max_chain"),
		{"defaults", "keep", "last"}, {"defaults", "max_chain"},
	}
	for _, key := range keys {
		if p.lines.has(key) {
			return key
		}
	}
	return at
}

// validName keeps names fit for file names and for command lines.
func validName(name string) bool {
	const allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-"
	return name != "" && len(name) <= maxName && name[0] != '-' && name[0] != '.' &&
		strings.Trim(name, allowed) == ""
}

// checkLiterals finds domains that two policies name outright. Overlaps of
// globs show only when the domains are known: see File.Match.
func (p *parser) checkLiterals(rules []Rule) {
	owner := map[string]*Rule{}
	for i := range rules {
		r := &rules[i]
		for _, domain := range r.literals() {
			first := owner[domain]
			if first == nil || first == r {
				owner[domain] = r
				continue
			}
			p.sameDomain(domain, first, r)
		}
	}
}

// sameDomain is told at the later of the two policies.
func (p *parser) sameDomain(domain string, a, b *Rule) {
	if a.Line > b.Line {
		a, b = b, a
	}
	p.add(toml.Key{"policy", b.Name, "domains"}, "domain %s belongs to policy %s (line %d) already",
		quote(domain), a.Name, a.Line)
}

// literals are the entries of Domains that are no globs and not excluded.
func (r *Rule) literals() []string {
	var names []string
	for _, d := range r.Domains {
		if !strings.ContainsAny(d, `*?[\`) && r.selects(d) {
			names = append(names, d)
		}
	}
	return names
}
