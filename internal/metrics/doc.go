// Package metrics tells Prometheus how the guests of a host stand: as text for a scrape, or
// in a file for the textfile collector of node_exporter, which is there whole or not at all.
//
// What holds: names and units are as Prometheus wants them (seconds, bytes, _total for what
// only grows); what is not known has no series, never 0; whatever a domain is called, its name
// is a label's value and nothing else. docs/monitoring.md lists all of them.
package metrics
