package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// graftRounds is how often each side merges; medians are shown.
const graftRounds = 3

// grafts compares the merge of a layer of a running guest, which writes all the while,
// by a graft and by libvirt's block commit, on an XFS of its own.
func grafts(ctx context.Context, binary string) (err error) {
	dir, err := os.MkdirTemp("", "vr-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	xfs := filepath.Join(dir, "xfs") // mounted before libvirtd starts: it has mounts of its own
	loop, err := guest.NewLoopMount(ctx, filepath.Join(dir, "xfs.img"), "xfs", xfs, 40<<30)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, loop.Close()) }()
	fmt.Printf("\n| merge under a running guest, XFS | virt-rotate, graft | virsh blockcommit --wait | ratio | aim | MiB written, graft / commit | guest's longest pause, graft / commit |\n|---|---|---|---|---|---|---|\n")
	return onDaemon(ctx, binary, func(ctx context.Context, b *bench) error {
		for _, gib := range []int64{1, 4} {
			g := &graftBench{bench: b, dir: xfs, device: filepath.Base(loop.Device), bytes: gib << 30}
			if err := g.compare(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

// A graftBench merges so many bytes in random clusters.
type graftBench struct {
	*bench
	dir, device string
	bytes       int64
}

// A merged says what one merge cost.
type merged struct {
	took, pause time.Duration
	written     int64 // bytes, on the device
}

func (g *graftBench) compare(ctx context.Context) error {
	var ours, theirs []merged
	for range graftRounds {
		for _, side := range []struct {
			merge func(context.Context, []string) error
			list  *[]merged
		}{{g.graft, &ours}, {g.commit, &theirs}} {
			m, err := g.round(ctx, side.merge)
			if err != nil {
				return err
			}
			*side.list = append(*side.list, m)
		}
	}
	a, b := medians(ours), medians(theirs)
	fmt.Printf("| %d GiB in random clusters of 64 KiB | %d ms | %d ms | %.3f | 0.05 | %d / %d | %d / %d ms |\n", g.bytes>>30, a.took.Milliseconds(), b.took.Milliseconds(),
		float64(a.took)/float64(b.took), a.written>>20, b.written>>20, a.pause.Milliseconds(), b.pause.Milliseconds())
	return nil
}

func medians(list []merged) (m merged) {
	var took, pause, written []time.Duration
	for _, x := range list {
		took, pause, written = append(took, x.took), append(pause, x.pause), append(written, time.Duration(x.written))
	}
	return merged{median(took), median(pause), int64(median(written))}
}

// round makes a guest with two snapshots, has the layer of the older one merged while
// it writes, and removes it.
func (g *graftBench) round(ctx context.Context, merge func(context.Context, []string) error) (m merged, err error) {
	const name = "guest"
	chain, err := g.prepare(ctx, name)
	if err != nil {
		return m, err
	}
	if err := g.host.Start(ctx, name); err != nil {
		return m, err
	}
	if err := g.host.WaitWrites(ctx, name, 100); err != nil {
		return m, err
	}
	before, err := g.written(ctx)
	if err != nil {
		return m, err
	}
	stop := g.watch(name, &m.pause)
	began := time.Now()
	err = merge(ctx, chain)
	m.took = time.Since(began)
	stop()
	if err != nil {
		return m, err
	}
	after, err := g.written(ctx)
	m.written = after - before
	return m, errors.Join(err, g.remove(ctx, name))
}

// prepare makes base, the layer that is to be merged, and an active one. It returns
// their paths, base first.
func (g *graftBench) prepare(ctx context.Context, name string) ([]string, error) {
	base := filepath.Join(g.dir, name+".qcow2")
	spec := guest.Spec{Name: name, Disks: []guest.DiskSpec{{Path: base, Size: 16 << 30}}, Params: guest.Params{Slots: 4000, Batch: 4, Pause: 1}}
	if err := g.host.Define(ctx, spec); err != nil {
		return nil, err
	}
	if err := g.policyOf(name, "last = 9", "commit"); err != nil {
		return nil, err
	}
	var chain []string
	for i := range 3 {
		disks, err := g.host.Disks(ctx, name)
		if err != nil {
			return nil, err
		}
		chain = append(chain, disks[0].Path)
		if i < 2 { // in the base as much as in the layer that is merged into it
			if err := g.fill(ctx, disks[0].Path, uint64(i)); err != nil {
				return nil, err
			}
			if _, _, err := g.timed(ctx, g.binary, "--policy", g.policy, "run", "--now"); err != nil {
				return nil, err
			}
		}
	}
	return chain, nil
}

func (g *graftBench) policyOf(name, keep, method string) error {
	return os.WriteFile(g.policy, fmt.Appendf(nil, "connect = %q\nstate_dir = %q\n[policy.p]\ndomains = [%q]\nevery = \"1s\"\nkeep = { %s }\nmin_free = \"1%%\"\nmethod = %q\n",
		g.host.URI(), filepath.Join(g.host.Dir(), "state"), name, keep, method), 0o644)
}

// fill writes random clusters beyond what the guest writes.
func (g *graftBench) fill(ctx context.Context, path string, seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 7))
	pieces := scattered(r, 15<<30, g.bytes)
	for i := range pieces {
		pieces[i].off += 1 << 30
	}
	b := &imageBench{dir: g.dir}
	return b.write(ctx, filepath.Base(path), pieces)
}

func (g *graftBench) graft(ctx context.Context, _ []string) error {
	if err := g.policyOf("guest", "last = 1", "graft"); err != nil {
		return err
	}
	_, _, err := g.timed(ctx, g.binary, "--policy", g.policy, "run", "--no-snapshot")
	return err
}

func (g *graftBench) commit(ctx context.Context, chain []string) error {
	_, _, err := g.timed(ctx, "virsh", "--quiet", "--connect", g.host.URI(), "blockcommit", "guest", "vda", "--top", chain[1], "--base", chain[0], "--wait")
	return err
}

// written tells how much has been written to the device, in bytes.
func (g *graftBench) written(ctx context.Context) (int64, error) {
	b := &imageBench{}
	if err := b.run(ctx, g.dir, "sync", "-f", "."); err != nil {
		return 0, err
	}
	text, err := os.ReadFile("/proc/diskstats")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		var major, minor int
		var name string
		var reads, merged, sectors, ms, writes, mergedWrites, written int64
		if _, err := fmt.Sscan(line, &major, &minor, &name, &reads, &merged, &sectors, &ms, &writes, &mergedWrites, &written); err == nil && name == g.device {
			return written * 512, nil
		}
	}
	return 0, fmt.Errorf("/proc/diskstats has no %s", g.device)
}

// watch measures the longest time in which the guest reports no write, until stop.
func (g *graftBench) watch(name string, longest *time.Duration) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		last, since := uint64(0), time.Now()
		for {
			select {
			case <-done:
				return
			case <-time.After(2 * time.Millisecond):
			}
			if now, err := g.host.Writes(name); err == nil && now != last {
				last, since = now, time.Now()
			}
			*longest = max(*longest, time.Since(since))
		}
	})
	return func() { close(done); wg.Wait() }
}

// remove undefines the guest and removes its images.
func (g *graftBench) remove(ctx context.Context, name string) error {
	err := g.host.Destroy(ctx, name)
	if err == nil {
		_, _, err = g.timed(ctx, "virsh", "--quiet", "--connect", g.host.URI(), "undefine", name, "--snapshots-metadata")
	}
	files, globErr := filepath.Glob(filepath.Join(g.dir, "*.qcow2"))
	for _, f := range files {
		err = errors.Join(err, os.Remove(f))
	}
	return errors.Join(err, globErr, os.RemoveAll(filepath.Join(g.host.Dir(), "state")))
}
