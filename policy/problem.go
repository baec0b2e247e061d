package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// Problem is one thing that is wrong with a policy file.
type Problem struct {
	File string `json:"file"`
	Line int    `json:"line"` // 0 = the file as a whole
	Key  string `json:"key"`  // dotted, as in TOML; may be ""
	Text string `json:"text"`
}

// Error says "FILE:LINE: KEY: TEXT", without the parts that are not known.
func (p Problem) Error() string {
	where := p.File
	if p.Line > 0 {
		where = fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	if p.Key != "" {
		where += ": " + p.Key
	}
	return where + ": " + p.Text
}

// Problems is every problem of a policy file, sorted by line.
type Problems []Problem

// Error gives each problem a line of its own.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As reach a single Problem.
func (ps Problems) Unwrap() []error {
	errs := make([]error, len(ps))
	for i, p := range ps {
		errs[i] = p
	}
	return errs
}

// err is nil when there are no problems.
func (ps Problems) err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps.sorted()
}

// sorted returns a copy in order of line, without repetitions: a fault in
// [defaults] would otherwise be told once for each policy.
func (ps Problems) sorted() Problems {
	sorted := slices.Clone(ps)
	slices.SortFunc(sorted, func(a, b Problem) int {
		return cmp.Or(a.Line-b.Line, cmp.Compare(a.Key, b.Key), cmp.Compare(a.Text, b.Text))
	})
	return slices.Compact(sorted)
}

func (f *File) tooLong(r *Rule) Problem {
	text := fmt.Sprintf("chains can grow to %d layers (1 base, %d kept, %d taken while the window is closed), more than max_chain %d",
		r.Longest(), r.Keep.Most(), r.pileUp(), r.MaxChain)
	return Problem{f.Path, r.Line, toml.Key{"policy", r.Name}.String(), text}
}
