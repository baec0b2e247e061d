package observe

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/xrash/smetrics"
)

// ErrNoSuchDomain says that a domain was named that the host does not have.
var ErrNoSuchDomain = errors.New("no such domain")

// ErrNoSuchSnapshot says that a snapshot was named that the domain does not have, or that
// what was written fits several.
var ErrNoSuchSnapshot = errors.New("no such snapshot")

// Named returns the domain, and the one of its snapshots that is meant: see host.Domain.Meant.
func (w *World) Named(domain, snapshot string, now time.Time) (*host.Domain, *host.Snapshot, error) {
	d := w.Domain(domain)
	if d == nil {
		return nil, nil, w.NoSuchDomain(domain)
	}
	fit := d.Meant(snapshot, now)
	if len(fit) != 1 {
		return nil, nil, noSuchSnapshot(d, snapshot, fit)
	}
	return d, d.Snapshot(fit[0].Name), nil
}

// NoSuchDomain is ErrNoSuchDomain with the name that may have been meant.
func (w *World) NoSuchDomain(name string) error {
	return fmt.Errorf("%s: %w%s", name, ErrNoSuchDomain, w.DidYouMean(name))
}

// DidYouMean asks for the domain that was meant by a name that none has; "" where none is
// like it.
func (w *World) DidYouMean(name string) string { return didYouMean(name, w.Names()) }

// noSuchSnapshot is ErrNoSuchSnapshot with the names that there are.
func noSuchSnapshot(d *host.Domain, text string, fit []host.Snapshot) error {
	var names []string
	for _, s := range host.InOrderTaken(d.Snapshots) {
		names = append(names, s.Name)
	}
	switch {
	case len(names) == 0:
		return fmt.Errorf("%s: %s: %w: the domain has none", d.Name, text, ErrNoSuchSnapshot)
	case len(fit) > 0:
		names = nil
		for _, s := range fit {
			names = append(names, s.Name)
		}
		return fmt.Errorf("%s: %s: %w: several begin like this: %s", d.Name, text, ErrNoSuchSnapshot, listed(names))
	}
	return fmt.Errorf("%s: %s: %w%s; there are %s", d.Name, text, ErrNoSuchSnapshot, didYouMean(text, names), listed(names))
}

// mostListed names fit a few lines of a terminal.
const mostListed = 10

// listed writes the newest of the names, which come oldest first.
func listed(names []string) string {
	if n := len(names) - mostListed; n > 0 {
		return strings.Join(names[n:], ", ") + fmt.Sprintf(" and %d older ones", n)
	}
	return strings.Join(names, ", ")
}

// alike is the similarity by Jaro and Winkler from which two names are taken for one
// that was mistyped; 1 is the same.
const alike = 0.85

func didYouMean(name string, known []string) string {
	best, score := "", alike
	for _, k := range known {
		if s := smetrics.JaroWinkler(name, k, 0.7, 4); s >= score {
			best, score = k, s
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}
