package policy

import "slices"

// A Guest is a domain as policies see it.
type Guest struct {
	Name  string
	Own   *Own     // what its metadata says; nil: nothing
	Disks []string // for Compare: target names of its writable disks
}

// A Comparison says what a policy file means on one host.
type Comparison struct {
	Overlaps  Problems // domains that several policies select: each is refused by a run
	Warnings  Problems // globs that match nothing there
	Uncovered []string // domains that no policy selects, sorted
}

// Compare holds the policies against the domains of a host.
func (f *File) Compare(guests []Guest) Comparison {
	var c Comparison
	names := namesOf(guests)
	a := f.MatchGuests(guests)
	for _, name := range names {
		if conflict := a.Conflicts[name]; conflict != nil {
			c.Overlaps = append(c.Overlaps, conflict.Problem)
		} else if a.Rules[name] == nil {
			c.Uncovered = append(c.Uncovered, name)
		}
	}
	slices.Sort(c.Uncovered)
	c.Overlaps = c.Overlaps.sorted()
	c.Warnings = f.idle(guests)
	return c
}

// A use counts what the globs match. One of [defaults] is in use if it is in any policy.
type use struct {
	globs   []Problem // where they are, and what each of them does not do
	matched map[Problem]bool
}

// look notes which globs of a list match one of the names.
func (u *use) look(at Problem, globs, names []string, what string) {
	for _, glob := range globs {
		p := at
		p.Text = quote(glob) + what
		u.globs = append(u.globs, p)
		if slices.ContainsFunc(names, func(n string) bool { return matchAny([]string{glob}, n) }) {
			u.matched[p] = true
		}
	}
}

// idle lists the globs that match nothing.
func (f *File) idle(guests []Guest) Problems {
	u := use{matched: map[Problem]bool{}}
	for i := range f.Rules {
		r := &f.Rules[i]
		named, selected, disks := r.reach(guests)
		u.look(f.place(r, "domains"), r.Domains, namesOf(guests), " matches no domain of this host")
		u.look(f.place(r, "exclude"), r.Exclude, named, " takes no domain out on this host")
		if selected {
			u.look(f.place(r, "disks"), r.Disks, disks, " matches no writable disk of the domains concerned")
			u.look(f.place(r, "exclude_disks"), r.ExcludeDisks, disks, " matches no writable disk of the domains concerned")
		}
	}
	idle := slices.DeleteFunc(u.globs, func(p Problem) bool { return u.matched[p] })
	return Problems(idle).sorted()
}

// reach returns the domains that Domains names, whether any is left by Exclude, and the
// disks of those.
func (r *Rule) reach(guests []Guest) (named []string, selected bool, disks []string) {
	for _, g := range guests {
		if matchAny(r.Domains, g.Name) {
			named = append(named, g.Name)
		}
		if r.selects(g.Name) {
			selected = true
			disks = append(disks, g.Disks...)
		}
	}
	return named, selected, disks
}

func namesOf(guests []Guest) []string {
	names := make([]string, len(guests))
	for i, g := range guests {
		names[i] = g.Name
	}
	return names
}
