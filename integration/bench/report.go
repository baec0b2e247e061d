package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// reportLayers are the lengths of the chains that the page of many guests is measured with.
var reportLayers = []int{1, 10, 30}

// reportDomains is how many guests the host has then.
const reportDomains = 500

// reports measures the page of a host of many guests, with all that is looked at for it. Its
// processor time is told too: the rest is libvirtd's.
func reports(ctx context.Context, binary string) error {
	fmt.Printf("\n| report of %d shut-off guests | time | processor time of virt-rotate | page | peak memory | virsh: XML of all snapshots |\n|---|---|---|---|---|---|\n", reportDomains)
	for _, layers := range reportLayers {
		err := onDaemon(ctx, binary, func(ctx context.Context, b *bench) error { return b.report(ctx, layers) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) report(ctx context.Context, layers int) error {
	policy := fmt.Appendf(nil, "connect = %q\nstate_dir = %q\n[policy.p]\ndomains = [\"d*\"]\nevery = \"24h\"\nkeep = { last = 25, weekly = 4 }\n", b.host.URI(), filepath.Join(b.host.Dir(), "state"))
	if err := os.WriteFile(b.policy, policy, 0o644); err != nil {
		return err
	}
	if err := b.defineMany(ctx, reportDomains, layers); err != nil {
		return err
	}
	file := filepath.Join(b.host.Dir(), "report.html")
	first, err := b.looks(ctx, true, "--policy", b.policy, "report", "-o", file)
	if err != nil {
		return err
	}
	later, err := b.looks(ctx, false, "--policy", b.policy, "report", "-o", file)
	if err != nil {
		return err
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	xml, err := b.snapshotXML(ctx)
	if err != nil {
		return err
	}
	for _, l := range []struct {
		which string
		looks
	}{{"first", first}, {"later", later}} {
		fmt.Printf("| %d layers, %d snapshots each, %s | %s | %s | %.1f MiB | %d MiB | %s |\n", layers, layers-1, l.which, l.took.Round(10*time.Millisecond),
			l.busy.Round(10*time.Millisecond), float64(info.Size())/(1<<20), l.peak>>10, xml.Round(10*time.Millisecond))
	}
	return nil
}

// snapshotXML is how long one virsh takes to read the XML of all snapshots, a call each, as everybody
// has to.
func (b *bench) snapshotXML(ctx context.Context) (time.Duration, error) {
	script := filepath.Join(b.host.Dir(), "many", "script")
	took, _, err := b.timed(ctx, "sh", "-c", `sed -n 's/^snapshot-create \([^ ]*\) .*-s\([0-9]*\).xml .*/snapshot-dumpxml \1 p-\2/p' "$1" | virsh --quiet --connect "$2" >/dev/null`, "sh", script, b.host.URI())
	return took, err
}
