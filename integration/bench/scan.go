package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// scanned is how many images lie in a directory that the policy names.
const scanned = 10_000

// secondLook is what a run may cost more for them if none has changed.
const secondLook = time.Second

// manyImages measures what it costs to know the users of bases in a directory of
// thousands of images: on the first look, when all headers are read, and on later ones.
func manyImages(ctx context.Context, b *bench) error {
	if err := b.host.Define(ctx, guest.Spec{Name: "d"}); err != nil {
		return err
	}
	dir := filepath.Join(b.host.Dir(), "scan")
	if err := makeImages(ctx, dir, scanned); err != nil {
		return err
	}
	if err := b.writePolicy("d"); err != nil {
		return err
	}
	run := []string{"--policy", b.policy, "run", "--no-snapshot"}
	var without []time.Duration
	for range rounds {
		took, _, err := b.timed(ctx, b.binary, run...)
		if err != nil {
			return err
		}
		without = append(without, took)
	}
	if err := b.scan(dir); err != nil {
		return err
	}
	first, _, err := b.timed(ctx, b.binary, run...)
	if err != nil {
		return err
	}
	var later []time.Duration
	for range rounds {
		took, _, err := b.timed(ctx, b.binary, run...)
		if err != nil {
			return err
		}
		later = append(later, took)
	}
	return reportScan(first, median(later), median(without))
}

// reportScan prints the figures; a second look that is too dear is an error.
func reportScan(first, later, without time.Duration) error {
	ms := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	fmt.Printf("\nA run that has nothing to do, with %d images in a directory of [storage] scan: first look %s, later looks %s, without them %s: they cost %s each time (aim: below %s).\n",
		scanned, ms(first), ms(later), ms(without), ms(later-without), secondLook)
	if cost := later - without; cost >= secondLook {
		return fmt.Errorf("a later look at %d images costs %s: want less than %s", scanned, cost, secondLook)
	}
	return nil
}

// scan adds the directory to the policy.
func (b *bench) scan(dir string) error {
	f, err := os.OpenFile(b.policy, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = fmt.Fprintf(f, "[storage]\nscan = [%q]\n", dir)
	return err
}

// makeImages makes copies of a small overlay, as old as images usually are.
func makeImages(ctx context.Context, dir string, n int) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	model := filepath.Join(dir, "base.qcow2")
	if _, err := guest.QemuImg(ctx, "create", "-q", "-f", "qcow2", "-u", "-b", "golden.qcow2", "-F", "qcow2", "-o", "cluster_size=512", model, "1M"); err != nil {
		return err
	}
	data, err := os.ReadFile(model)
	if err != nil {
		return err
	}
	old := time.Now().Add(-time.Hour)
	for i := range n {
		path := filepath.Join(dir, fmt.Sprintf("clone-%05d.qcow2", i))
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return err
		}
		if err := os.Chtimes(path, old, old); err != nil {
			return err
		}
	}
	return nil
}
