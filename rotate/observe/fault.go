package observe

import (
	"slices"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// faulty notes a fault in looking at a domain. Whatever it names counts as in use then.
func (w *World) faulty(d *host.Domain, f *host.Fault) {
	if f == nil {
		return
	}
	if d.Problem == "" {
		d.Problem = f.Error()
	}
	w.Faults = append(w.Faults, f)
}

// FaultsOf lists the faults in looking at one domain.
func (w *World) FaultsOf(domain string) []*host.Fault {
	return slices.DeleteFunc(slices.Clone(w.Faults), func(f *host.Fault) bool { return f.Domain != domain })
}

// keepNamed keeps all that a domain names which could not be looked at in full: what
// of it the domain needs is not known.
func (w *World) keepNamed(d *host.Domain) {
	for _, path := range d.Named() {
		if path != "" {
			w.Forest.Add(w.Key(path), path).Keep("domain " + d.Name + ", which could not be looked at in full")
		}
	}
}
