package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// srRounds is how often each task is done; medians are shown.
const srRounds = 3

// An srBench is a directory with storage repositories, and qcow2 images of the same content.
type srBench struct{ binary, dir string }

// repositories measures work on storage repositories: the tasks that have only in their names,
// which are scan, convert, coalesce and again. qemu-img, which knows no chains of VHDs, does the
// same with qcow2 images as a reference.
func repositories(ctx context.Context, binary, only string) error {
	dir, err := os.MkdirTemp("", "vr-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &srBench{binary, dir}
	wanted := func(name string) bool { return strings.Contains(name, only) }
	if wanted("scan") {
		if err := largeRepository(ctx, binary, filepath.Join(dir, "large")); err != nil {
			return err
		}
	}
	fmt.Printf("\n| repository | virt-rotate | reference | ratio |\n|---|---|---|---|\n")
	for _, t := range []struct {
		name    string
		measure func(context.Context) error
	}{{"convert", b.convert}, {"coalesce", b.coalesce}, {"again", b.again}} {
		if !wanted(t.name) {
			continue
		}
		if err := t.measure(ctx); err != nil {
			return err
		}
	}
	return nil
}

// chain makes q0.qcow2 with 1 GiB of noise, and layers with so many MiB each on it, in a
// directory of that name; and the same as VHDs in sr, all but the top hidden.
func (b *srBench) chain(ctx context.Context, name string, layers, mib int) (dir string, err error) {
	dir = filepath.Join(b.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	if err := noiseFile(filepath.Join(dir, "raw"), 1<<30); err != nil {
		return "", err
	}
	lines := []string{"qemu-img convert -f raw -O qcow2 raw q0.qcow2", "rm raw"}
	for i := 1; i < layers; i++ {
		lines = append(lines, fmt.Sprintf("qemu-img create -q -f qcow2 -F qcow2 -b q%d.qcow2 q%d.qcow2", i-1, i),
			fmt.Sprintf("qemu-io -f qcow2 -c 'write -q -P %d %dM %dM' q%d.qcow2", i, 100*i, mib, i))
	}
	lines = append(lines, fmt.Sprintf("%s image convert -q --chain -O vhd q%d.qcow2 sr", b.binary, layers-1))
	if err := b.shell(ctx, dir, strings.Join(lines, " && ")); err != nil {
		return "", err
	}
	for i := range layers - 1 {
		if err := hide(filepath.Join(dir, "sr", fmt.Sprintf("q%d.vhd", i))); err != nil {
			return "", err
		}
	}
	return dir, b.age(ctx, dir)
}

func hide(path string) error {
	f, err := vfs.OS().Open(path, true)
	if err != nil {
		return err
	}
	return errors.Join(vhdbridge.HideVHD(f, true), f.Close())
}

// age makes the nodes ones that nobody has just written to.
func (b *srBench) age(ctx context.Context, dir string) error {
	return b.shell(ctx, dir, "touch -d -1hour sr/*.vhd")
}

func noiseFile(path string, n int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, io.LimitReader(rand.NewChaCha8([32]byte{1}), n))
	return errors.Join(err, f.Close())
}

func (b *srBench) shell(ctx context.Context, dir, line string) error {
	c := exec.CommandContext(ctx, "sh", "-c", line)
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", line, err, out)
	}
	return nil
}

// timed does before, and then measures line until all that it wrote is on storage.
func (b *srBench) timed(ctx context.Context, dir, before, line string) (time.Duration, error) {
	var took []time.Duration
	for range srRounds {
		if err := b.shell(ctx, dir, before+"\nsync -f ."); err != nil {
			return 0, err
		}
		began := time.Now()
		if err := b.shell(ctx, dir, line+" && sync -f ."); err != nil {
			return 0, err
		}
		took = append(took, time.Since(began))
	}
	return median(took), nil
}

func (b *srBench) compare(ctx context.Context, dir, what string, ours, theirs [2]string) error {
	mine, err := b.timed(ctx, dir, ours[0], ours[1])
	if err != nil {
		return err
	}
	other, err := b.timed(ctx, dir, theirs[0], theirs[1])
	if err == nil {
		row(what, mine, other)
	}
	return err
}

// convert makes a chain of qcow2 layers of one of VHDs; qemu-img a flat image of each state.
func (b *srBench) convert(ctx context.Context) error {
	dir, err := b.chain(ctx, "convert", 4, 64)
	if err != nil {
		return err
	}
	var flat []string
	for i := range 4 {
		flat = append(flat, fmt.Sprintf("qemu-img convert -f qcow2 -O qcow2 q%d.qcow2 flat%d", i, i))
	}
	return b.compare(ctx, dir, "sr convert of a chain of 4 with 1.2 GiB (qemu-img convert of each state)",
		[2]string{"rm -rf out", b.binary + " sr convert -q --keep-all sr --to out"}, [2]string{"rm -f flat*", strings.Join(flat, " && ")})
}

// coalesce merges a leaf of 512 MiB into a base of 1 GiB.
func (b *srBench) coalesce(ctx context.Context) error {
	dir, err := b.chain(ctx, "coalesce", 2, 512)
	if err != nil {
		return err
	}
	return b.compare(ctx, dir, "sr coalesce of a leaf of 512 MiB into 1 GiB (qemu-img commit)",
		[2]string{"rm -rf s; cp -a --sparse=always sr s", b.binary + " sr coalesce -q --leaf s"},
		[2]string{"cp --sparse=always q0.qcow2 c0.qcow2; cp --sparse=always q1.qcow2 c1.qcow2; qemu-img rebase -u -f qcow2 -F qcow2 -b c0.qcow2 c1.qcow2", "qemu-img commit -q -f qcow2 -d c1.qcow2"})
}

// again converts what a guest has written, 16 MiB over 1 GiB, where another state was converted
// before: into the image that is there, and all anew.
func (b *srBench) again(ctx context.Context) error {
	dir, err := b.chain(ctx, "again", 2, 16)
	if err != nil {
		return err
	}
	if err := b.shell(ctx, dir, "cp sr/q1.vhd before.vhd"); err != nil {
		return err
	}
	if err := overwrite(filepath.Join(dir, "sr", "q1.vhd"), 100<<20, 16<<20); err != nil {
		return err
	}
	if err := b.shell(ctx, dir, "mv sr/q1.vhd after.vhd"); err != nil {
		return err
	}
	convert := b.binary + " sr convert -q --keep-all sr --to "
	state := func(name, age string) string {
		return "cp --sparse=always " + name + ".vhd sr/q1.vhd; touch -d " + age + " sr/q1.vhd; "
	}
	if err := b.compare(ctx, dir, "sr convert --again, where 16 MiB over 1 GiB have changed (sr convert)",
		[2]string{state("before", "-2hour") + "rm -rf out; " + convert + "out; " + state("after", "-1hour"), convert + "out --again"},
		[2]string{"rm -rf fresh", convert + "fresh"}); err != nil {
		return err
	}
	return b.shell(ctx, dir, "qemu-img compare -q -f qcow2 -F qcow2 out/q1.qcow2 fresh/q1.qcow2")
}

// overwrite writes noise into a VHD, as a guest does.
func overwrite(path string, off, n int64) error {
	f, err := vfs.OS().Open(path, true)
	if err != nil {
		return err
	}
	i, err := vhd.Open(f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	err = i.Prepare()
	var placed []vhd.Piece
	if err == nil {
		placed, err = i.Place([]vhd.Piece{{Offset: off, Length: n}})
	}
	noise := rand.NewChaCha8([32]byte{2})
	for _, p := range placed {
		b := make([]byte, p.Length)
		_, _ = noise.Read(b) // never fails
		if _, err := i.Host().WriteAt(b, p.Host); err != nil {
			return err
		}
	}
	return errors.Join(err, i.Flush(), i.Close())
}
