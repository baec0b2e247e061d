package policy

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// Load reads a policy file. What is wrong with its content comes as
// Problems, all at once; a file that cannot be read as the error of os.
func Load(path string) (*File, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return Parse(path, data)
}

// Parse is Load for data at hand; name stands for the path in errors.
func Parse(name string, data []byte) (*File, error) {
	var root map[string]any
	if _, err := toml.Decode(string(data), &root); err != nil {
		return nil, Problems{syntaxProblem(name, err)}
	}
	p := &parser{path: name, lines: indexLines(string(data))}
	p.checkRepeated()
	f := p.file(root)
	if err := p.problems.err(); err != nil {
		return nil, err
	}
	return f, nil
}

// syntaxProblem corrects line 0, which the TOML library gives for some errors
// at the end of line 1.
func syntaxProblem(name string, err error) Problem {
	var syntax toml.ParseError
	if errors.As(err, &syntax) {
		return Problem{name, max(1, syntax.Position.Line), syntax.LastKey, syntax.Message}
	}
	return Problem{File: name, Text: err.Error()}
}

// parser collects the problems of one file.
type parser struct {
	path     string
	lines    lineIndex
	metadata bool // domains may name their policy themselves
	problems Problems
}

func (p *parser) add(key toml.Key, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	p.problems = append(p.problems, Problem{p.path, p.lines.line(key), key.String(), text})
}

// faulty reports whether key, or a key below it, has a problem already:
// checks that build on its value would then only confuse.
func (p *parser) faulty(key toml.Key) bool {
	name := key.String()
	return slices.ContainsFunc(p.problems, func(q Problem) bool {
		return q.Key == name || strings.HasPrefix(q.Key, name+".")
	})
}

func (p *parser) file(root map[string]any) *File {
	f := &File{Path: p.path, Storage: Storage{SilentAfter: silentAfter, Slots: slots}, Ping: Ping{Method: PingPost, Timeout: 10 * time.Second}, Check: HostCheck{Uncovered: SeverityWarn},
		Coordination: Coordination{Engine: EngineShare, Prefix: coordinationPrefix}, lines: p.lines}
	base := builtin()
	p.table(nil, root, topLevel(f, &base))
	p.metadata = f.Metadata.Allow
	f.Rules = p.rules(root["policy"], base)
	p.checkLiterals(f.Rules)
	p.checkCoordination(&f.Coordination)
	return f
}

// table gives each value of t to the field of its key.
func (p *parser) table(at toml.Key, t map[string]any, fields []field) {
	for name, v := range t {
		key := below(at, name)
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == name })
		if i < 0 {
			p.add(key, "unknown key%s", hint(at, name, fields))
		} else {
			p.value(key, v, fields[i])
		}
	}
}

func (p *parser) value(key toml.Key, v any, f field) {
	if f.sub == nil {
		p.addErr(key, f.set(v))
	} else if t, ok := v.(map[string]any); ok {
		p.table(key, t, f.sub)
	} else {
		p.add(key, "want a table, not %s", describe(v))
	}
}

// addErr makes a problem of each error that err joins.
func (p *parser) addErr(key toml.Key, err error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			p.addErr(key, e)
		}
	} else if err != nil {
		p.add(key, "%s", err)
	}
}

// rules reads the policies, sorted by name. Each starts from base and sets
// only the keys it has; that is all there is to inheritance.
func (p *parser) rules(v any, base Rule) []Rule {
	tables, ok := v.(map[string]any)
	if !ok && v != nil {
		p.add(toml.Key{"policy"}, "want tables [policy.NAME], not %s", describe(v))
		return nil
	}
	if len(tables) == 0 {
		p.problems = append(p.problems, Problem{p.path, max(1, p.lines.line(toml.Key{"policy"})), "policy",
			"no policy: write at least one table [policy.NAME]"})
	}
	var rules []Rule
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		if r, ok := p.rule(name, tables[name], base); ok {
			rules = append(rules, r)
		}
	}
	return rules
}

// rule gets its own copy of base; slices of base are replaced, never changed.
func (p *parser) rule(name string, v any, base Rule) (Rule, bool) {
	key := toml.Key{"policy", name}
	t, ok := v.(map[string]any)
	if !ok {
		p.add(key, "%s outside of a policy; write [policy.NAME] above it", describe(v))
		return Rule{}, false
	}
	r := base.clone()
	r.Name, r.Line = name, p.lines.line(key)
	p.table(key, t, fields(&r))
	p.checkRule(&r, key)
	return r, true
}

// below copies at: keys of one table must not share a backing array.
func below(at toml.Key, names ...string) toml.Key {
	return append(slices.Clone(at), names...)
}
