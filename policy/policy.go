// Package policy reads the TOML file that says which domains get rolling snapshots, and
// decides which snapshots a retention rule keeps.
//
// A rule can be used without a file: Keep.Apply judges a list of names and times.
//
//	keep := policy.Keep{Last: 3, Daily: 7}
//	for _, v := range keep.Apply(taken, time.Now()) {
//		fmt.Println(v.Name, v.Keep, v.Reasons)
//	}
//
// Load reads a policy file, and Parse one that is at hand; what is wrong with it comes as
// Problems, all at once. File.Match tells which Rule is for which domain, Rule.Covers
// which disks, and Rule.Due whether a snapshot is due.
//
// Only Load reads a file; all else is pure. The clock is always an argument, no argument
// is changed, there is no goroutine and no lock.
//
// What holds for every File that Load or Parse returns: it has at least one
// rule; every value is within its limits; inherited values are filled in; no
// two rules have the same name or the same literal domain name.
package policy

import (
	"slices"
	"time"
)

// File is one policy file. Defaults are already applied to its rules.
type File struct {
	Path     string // as given to Load or Parse
	Connect  string // libvirt URI; "" = not set
	StateDir string // absolute path; "" = not set
	Storage  Storage
	Ping     Ping
	Metadata Metadata
	Check    HostCheck

	Coordination Coordination

	MetricsFile string // absolute path; "" = not set

	Rules []Rule // sorted by name

	lines lineIndex // of the keys
}

// Storage is about users of an image that no domain tells of.
type Storage struct {
	Scan   []string `json:"scan"`   // absolute directories whose images count as users of a base
	Ignore []string `json:"ignore"` // absolute paths of files that are taken to build on no layer, whether they can be read or not

	Shared      []string      `json:"shared"`       // absolute directories of storages that other hosts have, too, beside those that can be told
	SilentAfter time.Duration `json:"silent_after"` // how old what another host has told of such a storage may be
	Slots       int           `json:"slots"`        // how many hosts may merge on such a storage at the same time
}

// silentAfter is SilentAfter unless the file says otherwise.
const silentAfter = 7 * 24 * time.Hour

// slots is Slots unless the file says otherwise.
const slots = 3

// Rule is one [policy.NAME] table with every inherited value filled in.
type Rule struct {
	Name         string        `json:"name"`
	Domains      []string      `json:"domains"`       // globs: see docs/policy.md
	Exclude      []string      `json:"exclude"`       // globs that take out of Domains
	Disks        []string      `json:"disks"`         // globs on target names; empty = every writable disk
	ExcludeDisks []string      `json:"exclude_disks"` // globs that take out of Disks
	OnUnsuitable OnUnsuitable  `json:"on_unsuitable"` // what a disk of which no snapshot can be taken means for the domain
	Every        time.Duration `json:"every"`         // a snapshot is due when the newest is older
	Keep         Keep          `json:"keep"`
	Method       Method        `json:"method"`
	Quiesce      Quiesce       `json:"quiesce"`
	OverlayDir   string        `json:"overlay_dir"` // absolute path; "" = beside the layer
	MaxChain     int           `json:"max_chain"`   // layers, base and active layer included
	MinFree      MinFree       `json:"min_free"`    // stays free on the storage
	Bandwidth    Bandwidth     `json:"bandwidth"`   // bytes per second; 0 = unlimited
	Window       Window        `json:"window"`      // merges start only then
	Offline      Offline       `json:"offline"`     // what happens to domains that are shut off
	Detach       bool          `json:"detach"`      // pull the disks off images that they share with others
	Hooks        Hooks         `json:"hooks"`       // programs around the work on a domain
	Check        Check         `json:"check"`       // when check finds a domain badly protected
	Line         int           `json:"line"`        // of the header [policy.NAME]
	Manual       bool          `json:"-"`           // snapshots are taken by hand only; no file says so
}

// TakesSnapshots tells whether the rule ever has a snapshot taken by the clock.
func (r *Rule) TakesSnapshots() bool { return !r.Manual && !r.Keep.None() }

// Covers reports whether the rule selects the disk with this target name,
// such as "vda". Whether the disk is writable is for the caller to know.
func (r *Rule) Covers(target string) bool {
	return (len(r.Disks) == 0 || matchAny(r.Disks, target)) && !matchAny(r.ExcludeDisks, target)
}

// An Assignment says what the policies have to do with each domain. One that no policy
// selects is in neither map.
type Assignment struct {
	Rules     map[string]*Rule
	Conflicts map[string]*Conflict // domains that several policies select, or whose metadata is at fault: none may work on it
}

// Match assigns the domains to the policies that select them.
func (f *File) Match(domains []string) Assignment {
	guests := make([]Guest, len(domains))
	for i, name := range domains {
		guests[i] = Guest{Name: name}
	}
	return f.MatchGuests(guests)
}

// matching lists the rules that select domain, in the order of the file.
func (f *File) matching(domain string) []*Rule {
	var rules []*Rule
	for i := range f.Rules {
		if f.Rules[i].selects(domain) {
			rules = append(rules, &f.Rules[i])
		}
	}
	slices.SortStableFunc(rules, func(a, b *Rule) int { return a.Line - b.Line })
	return rules
}

func (r *Rule) selects(domain string) bool {
	return matchAny(r.Domains, domain) && !matchAny(r.Exclude, domain)
}

// Due reports whether a snapshot is due, given the time of the one that was
// taken last. A twelfth of Every, at most 10 minutes, is forgiven: a timer
// that fires every hour, but three seconds early, would otherwise make it
// every second hour. A time in the future is no reason to wait for it.
func (r *Rule) Due(newest, now time.Time) bool {
	slack := min(r.Every/12, 10*time.Minute)
	return newest.After(now.Add(clockSlack)) || now.Sub(newest) >= r.Every-slack
}

// Longest is the longest chain, in layers, that the rule leads to while
// merges keep up: the base, what Keep keeps at most, and what piles up while
// the window is closed. Images below the guest's own first layer add to it.
func (r *Rule) Longest() int {
	return 1 + r.Keep.Most() + r.pileUp()
}

// pileUp is the number of snapshots that a day takes outside the window.
func (r *Rule) pileUp() int {
	closed := r.Window.closed()
	if closed == 0 || r.Every <= 0 {
		return 0
	}
	return int((closed-1)/r.Every) + 1 // rounded up
}

// Warnings lists the rules that load but reach max_chain sooner or later:
// from then on virt-rotate refuses to take their snapshots.
func (f *File) Warnings() Problems {
	var warnings Problems
	for i := range f.Rules {
		if r := &f.Rules[i]; r.Longest() > r.MaxChain {
			warnings = append(warnings, f.tooLong(r))
		}
	}
	return warnings.sorted()
}
