package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// A series is how long something takes as there is more of it to do.
type series struct {
	name   string
	points []point
}

// A point is the time for so much.
type point struct{ much, seconds float64 }

func (s *series) add(much int, took time.Duration) {
	s.points = append(s.points, point{float64(much), took.Seconds()})
}

// A panel is one of the pictures.
type panel struct {
	title, much string
	series      []*series
}

// growthPicture is where the pictures go, from the root of the repository.
const growthPicture = "docs/growth.svg"

// growth measures how time grows with bytes merged, layers, images and domains, prints the figures
// and draws them.
func growth(ctx context.Context, binary string) error {
	var panels []*panel
	for _, measure := range []func(context.Context, string) (*panel, error){growthOfBytes, growthOfLayers, growthOfImages, growthOfDomains} {
		p, err := measure(ctx, binary)
		if err != nil {
			return err
		}
		p.print()
		panels = append(panels, p)
	}
	return drawPanels(panels, growthPicture)
}

func (p *panel) print() {
	fmt.Printf("\n| %s: %s |", p.title, p.much)
	for _, s := range p.series {
		fmt.Printf(" %s |", s.name)
	}
	fmt.Print("\n|---|")
	for range p.series {
		fmt.Print("---|")
	}
	fmt.Println()
	for i, at := range p.series[0].points {
		fmt.Printf("| %.0f |", at.much)
		for _, s := range p.series {
			fmt.Printf(" %.0f ms |", s.points[i].seconds*1000)
		}
		fmt.Println()
	}
}

// onImages lets measure work in a directory of its own.
func onImages(binary string, measure func(b *imageBench, dir string) error) error {
	dir, err := os.MkdirTemp("", "vr-bench-")
	if err != nil {
		return err
	}
	self, err := os.Executable()
	b := &imageBench{binary: binary, self: self, dir: filepath.Join(dir, "inputs")}
	if err == nil {
		err = os.Mkdir(b.dir, 0o755)
	}
	if err == nil {
		err = measure(b, filepath.Join(dir, "round"))
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// growthOfBytes commits overlays of random clusters into an empty base.
func growthOfBytes(ctx context.Context, binary string) (*panel, error) {
	ours, theirs := &series{name: "virt-rotate"}, &series{name: "qemu-img"}
	err := onImages(binary, func(b *imageBench, dir string) error {
		r := rand.New(rand.NewPCG(2, 2))
		const disk = 8 << 30
		if err := b.create(ctx, "empty.qcow2", "", disk); err != nil {
			return err
		}
		for _, mib := range []int{64, 256, 512, 1024} {
			name := fmt.Sprintf("top%d.qcow2", mib)
			if err := errors.Join(b.create(ctx, name, "empty.qcow2", disk), b.write(ctx, name, scattered(r, disk, int64(mib)<<20))); err != nil {
				return err
			}
			c, err := b.compare(ctx, task{inputs: []string{"empty.qcow2", name}, ours: []string{"commit", name},
				theirs: [][]string{{"commit", "-q", "-f", "qcow2", "-d", name}}, result: "empty.qcow2"}, dir)
			if err != nil {
				return err
			}
			ours.add(mib, c.ours)
			theirs.add(mib, c.theirs)
		}
		return nil
	})
	return &panel{"Commit of random clusters", "MiB", []*series{ours, theirs}}, err
}

// growthOfLayers commits 256 MiB that are spread over more and more overlays, in one go.
func growthOfLayers(ctx context.Context, binary string) (*panel, error) {
	ours, theirs := &series{name: "virt-rotate"}, &series{name: "qemu-img"}
	err := onImages(binary, func(b *imageBench, dir string) error {
		r := rand.New(rand.NewPCG(3, 3))
		for _, layers := range []int{1, 4, 16, 32} {
			names, err := b.overlays(ctx, r, layers)
			if err != nil {
				return err
			}
			top := names[len(names)-1]
			t := task{inputs: names, ours: []string{"commit", "--base", names[0], top}, result: names[0]}
			for i := layers; i > 0; i-- {
				t.theirs = append(t.theirs, []string{"commit", "-q", "-f", "qcow2", "-d", names[i]})
			}
			c, err := b.compare(ctx, t, dir)
			if err != nil {
				return err
			}
			ours.add(layers, c.ours)
			theirs.add(layers, c.theirs)
		}
		return nil
	})
	return &panel{"Commit of 256 MiB in so many overlays", "overlays", []*series{ours, theirs}}, err
}

// overlays makes a chain with 256 MiB in its overlays, base first.
func (b *imageBench) overlays(ctx context.Context, r *rand.Rand, layers int) (names []string, err error) {
	const disk = 8 << 30
	on := ""
	for i := range layers + 1 {
		name := fmt.Sprintf("l%d-%d.qcow2", layers, i)
		if err := b.create(ctx, name, on, disk); err != nil {
			return nil, err
		}
		if i > 0 {
			if err := b.write(ctx, name, scattered(r, disk, 256<<20/int64(layers))); err != nil {
				return nil, err
			}
		}
		names, on = append(names, name), name
	}
	return names, nil
}

// growthOfImages looks at directories with more and more images beside the layers, of which none has changed.
func growthOfImages(ctx context.Context, binary string) (*panel, error) {
	first, later := &series{name: "first look"}, &series{name: "later looks"}
	for _, n := range []int{1000, 2500, 5000, 10000} {
		err := onDaemon(ctx, binary, func(ctx context.Context, b *bench) error {
			dir := filepath.Join(b.host.Dir(), "scan")
			if err := errors.Join(b.host.Define(ctx, guest.Spec{Name: "d"}), makeImages(ctx, dir, n), b.writePolicy("d"), b.scan(dir)); err != nil {
				return err
			}
			run := []string{"--policy", b.policy, "run", "--no-snapshot"}
			took, _, err := b.timed(ctx, b.binary, run...)
			if err != nil {
				return err
			}
			first.add(n, took)
			took, err = b.median(ctx, 5, run...)
			later.add(n, took)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return &panel{"A run with nothing to do beside so many images", "images", []*series{first, later}}, nil
}

// growthOfDomains plans for more and more domains.
func growthOfDomains(ctx context.Context, binary string) (*panel, error) {
	plan, status := &series{name: "plan"}, &series{name: "status"}
	for _, n := range []int{25, 50, 100, 200} {
		err := onDaemon(ctx, binary, func(ctx context.Context, b *bench) error {
			if err := errors.Join(b.writePolicy("d*"), b.defineMany(ctx, n, 10)); err != nil {
				return err
			}
			for command, s := range map[string]*series{"plan": plan, "status": status} {
				took, err := b.median(ctx, 5, "--policy", b.policy, command, "--output=json")
				if err != nil {
					return err
				}
				s.add(n, took)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return &panel{"So many domains, chains of 10, 9 snapshots each", "domains", []*series{plan, status}}, nil
}

// median is that of several runs of virt-rotate.
func (b *bench) median(ctx context.Context, n int, args ...string) (time.Duration, error) {
	var times []time.Duration
	for range n {
		took, _, err := b.timed(ctx, b.binary, args...)
		if err != nil {
			return 0, err
		}
		times = append(times, took)
	}
	return median(times), nil
}
