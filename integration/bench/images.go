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
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// imageRounds is how often each side does each task; medians are shown.
const imageRounds = 5

// warmBytes is a little more than a task writes.
const warmBytes = 3 << 30

// A task is one piece of work that virt-rotate and qemu-img both do. Files are
// names in the directory of one round, which holds copies of inputs.
type task struct {
	name   string
	inputs []string
	ours   []string
	theirs [][]string // commands, one after the other
	result string     // the file that is to be durable at the end; "." for all of them, "" for none
	aim    float64
	aimXFS float64 // where extents are shared; 0: not measured there
}

// An imageBench is a directory with the inputs of the tasks.
type imageBench struct {
	binary, self, dir string
	only              string // part of the names of the tasks that are measured
}

// images compares the image commands with qemu-img, on an ordinary directory and
// on an XFS with shared extents: the tasks that have only in their names.
func images(ctx context.Context, binary, only string) error {
	dir, err := os.MkdirTemp("", "vr-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b := &imageBench{binary, self, filepath.Join(dir, "inputs"), only}
	if err := b.make(ctx); err != nil {
		return err
	}
	fmt.Printf("\n| images | virt-rotate | qemu-img | ratio | aim | peak memory, MiB |\n|---|---|---|---|---|---|\n")
	for _, t := range b.tasks() {
		if err := b.measure(ctx, t, filepath.Join(dir, "round")); err != nil {
			return err
		}
	}
	if err := b.againstReference(ctx, filepath.Join(dir, "round"), "", 0.25); err != nil {
		return err
	}
	return b.onXFS(ctx, dir)
}

// onXFS repeats the merges where extents can be shared.
func (b *imageBench) onXFS(ctx context.Context, dir string) (err error) {
	mount := filepath.Join(dir, "xfs")
	l, err := guest.NewLoopMount(ctx, filepath.Join(dir, "xfs.img"), "xfs", mount, 24<<30)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	x := &imageBench{b.binary, b.self, filepath.Join(mount, "inputs"), b.only}
	if out, err := exec.CommandContext(ctx, "cp", "-r", "--sparse=always", b.dir, x.dir).CombinedOutput(); err != nil {
		return fmt.Errorf("copy to XFS: %w\n%s", err, out)
	}
	for _, t := range b.tasks() {
		if t.aimXFS == 0 {
			continue
		}
		t.name, t.aim = t.name+", XFS with shared extents", t.aimXFS
		if err := x.measure(ctx, t, filepath.Join(mount, "round")); err != nil {
			return err
		}
	}
	return x.againstReference(ctx, filepath.Join(mount, "round"), ", XFS with shared extents", 0.15)
}

// tasks are those that are wanted.
func (b *imageBench) tasks() []task {
	return slices.DeleteFunc(append(tasks(), vhdTasks()...), func(t task) bool { return !strings.Contains(t.name, b.only) })
}

func tasks() []task {
	five := []string{"f0.qcow2", "f1.qcow2", "f2.qcow2", "f3.qcow2", "f4.qcow2", "f5.qcow2"}
	var oneByOne [][]string
	for i := 5; i > 0; i-- {
		oneByOne = append(oneByOne, []string{"commit", "-q", "-f", "qcow2", "-d", five[i]})
	}
	return []task{
		{"commit of 1 GiB in random 64 KiB clusters into an empty base", []string{"empty.qcow2", "top.qcow2"},
			[]string{"commit", "top.qcow2"}, [][]string{{"commit", "-q", "-f", "qcow2", "-d", "top.qcow2"}}, "empty.qcow2", 0.5, 0.03},
		{"the same into a base that has a quarter of them", []string{"base.qcow2", "over.qcow2"},
			[]string{"commit", "over.qcow2"}, [][]string{{"commit", "-q", "-f", "qcow2", "-d", "over.qcow2"}}, "base.qcow2", 0.55, 0},
		{"commit of five overlays of 256 MiB in one pass", five,
			[]string{"commit", "--base", "f0.qcow2", "f5.qcow2"}, oneByOne, "f0.qcow2", 0.5, 0.03},
		{"rebase (safe) of a 1 GiB overlay to a copy of its base", []string{"base.qcow2", "copy.qcow2", "over.qcow2"},
			[]string{"rebase", "-b", "copy.qcow2", "-F", "qcow2", "over.qcow2"},
			[][]string{{"rebase", "-f", "qcow2", "-b", "copy.qcow2", "-F", "qcow2", "over.qcow2"}}, "over.qcow2", 0.35, 0},
		{"convert of the 3 GiB chain to qcow2", []string{"base.qcow2", "over.qcow2"},
			[]string{"convert", "-O", "qcow2", "over.qcow2", "out.qcow2"},
			[][]string{{"convert", "-f", "qcow2", "-O", "qcow2", "over.qcow2", "out.qcow2"}}, "out.qcow2", 0.45, 0},
		{"compact of 2 GiB with five internal snapshots, a quarter of it zeros (qemu-img: convert, which loses them)", []string{"snaps.qcow2"},
			[]string{"compact", "snaps.qcow2"}, [][]string{{"convert", "-f", "qcow2", "-O", "qcow2", "snaps.qcow2", "out.qcow2"}}, ".", 1.0, 0},
		{"map of 4 TiB with 4 GiB", []string{"sparse.qcow2"}, []string{"map", "--output=json", "sparse.qcow2"},
			[][]string{{"map", "-f", "qcow2", "--output=json", "sparse.qcow2"}}, "", 0.1, 0},
		{"check of 4 TiB with 4 GiB", []string{"sparse.qcow2"}, []string{"check", "sparse.qcow2"},
			[][]string{{"check", "-q", "-f", "qcow2", "sparse.qcow2"}}, "", 0.25, 0},
	}
}

// make writes the inputs with QEMU's own tools.
func (b *imageBench) make(ctx context.Context) error {
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(1, 1))
	const disk = 8 << 30
	steps := []func() error{
		func() error { return b.create(ctx, "empty.qcow2", "", disk) },
		func() error { return b.create(ctx, "base.qcow2", "", disk) },
		func() error { return b.write(ctx, "base.qcow2", sequence(2<<30, 1<<20)) },
		func() error { return b.create(ctx, "top.qcow2", "empty.qcow2", disk) },
		func() error { return b.write(ctx, "top.qcow2", scattered(r, disk, 1<<30)) },
		func() error { return b.create(ctx, "f0.qcow2", "", disk) },
		func() error { return b.create(ctx, "sparse.qcow2", "", 4<<40) },
		func() error { return b.write(ctx, "sparse.qcow2", scattered(r, 4<<40, 4<<30)) },
	}
	steps = append(steps, func() error { return b.makeSnapshots(ctx, r, disk) })
	for i := range 5 {
		name, on := fmt.Sprintf("f%d.qcow2", i+1), fmt.Sprintf("f%d.qcow2", i)
		steps = append(steps, func() error { return b.create(ctx, name, on, disk) },
			func() error { return b.write(ctx, name, scattered(r, disk, 256<<20)) })
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	if err := b.derive(ctx); err != nil {
		return err
	}
	return b.makeVHDs(ctx)
}

// makeSnapshots makes an image of 2 GiB with five internal snapshots, and the zeros of a
// guest that has filled its file system and deleted the file: the first half GiB.
func (b *imageBench) makeSnapshots(ctx context.Context, r *rand.Rand, disk int64) error {
	const name = "snaps.qcow2"
	if err := b.create(ctx, name, "", disk); err != nil {
		return err
	}
	err := b.run(ctx, b.dir, "qemu-io", "-f", "qcow2", "-c", "write -q -P 0 0 512M", "-c", "write -q -P 1 512M 512M", name)
	for i := 0; i < 5 && err == nil; i++ {
		if err = b.run(ctx, b.dir, "qemu-img", "snapshot", "-c", fmt.Sprintf("s%d", i), name); err == nil {
			err = b.write(ctx, name, scattered(r, disk, 205<<20))
		}
	}
	return err
}

// derive makes copies that build on another image.
func (b *imageBench) derive(ctx context.Context) error {
	for _, args := range [][]string{{"cp", "--sparse=always", "base.qcow2", "copy.qcow2"}, {"cp", "--sparse=always", "top.qcow2", "over.qcow2"},
		{"qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "over.qcow2"}} {
		if err := b.run(ctx, b.dir, args...); err != nil {
			return err
		}
	}
	return nil
}

func (b *imageBench) run(ctx context.Context, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%q: %w\n%s", args, err, out)
	}
	return nil
}

func (b *imageBench) create(ctx context.Context, name, on string, size int64) error {
	args := []string{"qemu-img", "create", "-q", "-f", "qcow2"}
	if on != "" {
		args = append(args, "-b", on, "-F", "qcow2")
	}
	return b.run(ctx, b.dir, append(args, name, fmt.Sprint(size))...)
}

// A stretch is what one write covers, in bytes.
type stretch struct{ off, n int64 }

func sequence(total, n int64) []stretch {
	var out []stretch
	for off := int64(0); off < total; off += n {
		out = append(out, stretch{off, n})
	}
	return out
}

// scattered is total bytes in random clusters of 64 KiB, each once.
func scattered(r *rand.Rand, disk, total int64) []stretch {
	const cluster = 64 << 10
	seen := map[int64]bool{}
	var out []stretch
	for int64(len(out)) < total/cluster {
		c := r.Int64N(disk / cluster)
		if !seen[c] {
			seen[c] = true
			out = append(out, stretch{c * cluster, cluster})
		}
	}
	return out
}

// write has qemu-io write the stretches, many at a time.
func (b *imageBench) write(ctx context.Context, name string, stretches []stretch) error {
	cmd := exec.CommandContext(ctx, "qemu-io", "-f", "qcow2", name)
	cmd.Dir = b.dir
	in, out := io.Pipe()
	cmd.Stdin = in
	go func() {
		for i, s := range stretches {
			fmt.Fprintf(out, "aio_write -q -P %d %d %d\n", i%255+1, s.off, s.n)
			if i%256 == 255 {
				fmt.Fprintln(out, "aio_flush") // each write that is under way takes memory
			}
		}
		fmt.Fprintln(out, "aio_flush")
		_ = out.Close()
	}()
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("qemu-io on %s: %w\n%s", name, err, text[max(0, len(text)-200):])
	}
	return nil
}

// measure does the task with both, in turn, and prints a row.
func (b *imageBench) measure(ctx context.Context, t task, dir string) error {
	r, err := b.compare(ctx, t, dir)
	if err != nil {
		return err
	}
	fmt.Printf("| %s | %d ms | %d ms | %.2f | %.2f | %d / %d |\n", t.name, r.ours.Milliseconds(), r.theirs.Milliseconds(),
		float64(r.ours)/float64(r.theirs), t.aim, r.ourPeak>>10, r.theirPeak>>10)
	return nil
}

// compared are medians, and the most memory in KiB.
type compared struct {
	ours, theirs       time.Duration
	ourPeak, theirPeak int64
}

// compare does the task with both, in turn, each time on fresh copies.
func (b *imageBench) compare(ctx context.Context, t task, dir string) (c compared, err error) {
	var ours, theirs []time.Duration
	for range imageRounds {
		took, peak, err := b.round(ctx, t, dir, [][]string{append([]string{b.binary, "image"}, t.ours...)})
		if err != nil {
			return c, err
		}
		ours, c.ourPeak = append(ours, took), max(c.ourPeak, peak)
		var commands [][]string
		for _, c := range t.theirs {
			commands = append(commands, append([]string{"qemu-img"}, c...))
		}
		if took, peak, err = b.round(ctx, t, dir, commands); err != nil {
			return c, err
		}
		theirs, c.theirPeak = append(theirs, took), max(c.theirPeak, peak)
	}
	c.ours, c.theirs = median(ours), median(theirs)
	return c, nil
}

// round times commands, with the result durable in the end. Peak is in KiB.
func (b *imageBench) round(ctx context.Context, t task, dir string, commands [][]string) (took time.Duration, peak int64, err error) {
	if err := b.prepare(ctx, t, dir); err != nil {
		return 0, 0, err
	}
	if err := b.run(ctx, dir, b.self, "warm"); err != nil { // not here: memory of this process counts for its children
		return 0, 0, err
	}
	began := time.Now()
	for _, args := range commands {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Dir = dir
		if err := cmd.Run(); err != nil {
			return 0, 0, fmt.Errorf("%q: %w", args, err)
		}
		if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
			peak = max(peak, usage.Maxrss)
		}
	}
	switch t.result {
	case "":
	case ".":
		err = b.run(ctx, dir, "sync", "-f", ".")
	default:
		err = syncFile(filepath.Join(dir, t.result))
	}
	return time.Since(began), peak, err
}

// prepare copies the inputs and reads them, so that both sides find them in memory.
func (b *imageBench) prepare(ctx context.Context, t task, dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, name := range t.inputs {
		if err := b.run(ctx, b.dir, "cp", "--sparse=always", "--reflink=auto", name, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := b.run(ctx, dir, "sync", "-f", "."); err != nil {
		return err
	}
	for _, name := range t.inputs {
		if err := readData(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// readData reads what a file has outside its holes, which would take memory, too.
func readData(path string) error {
	f, err := vfs.OS().Open(path, false)
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for off, end := int64(0), int64(0); err == nil; off = end {
		if off, end, err = f.NextData(off); off == end {
			break
		}
		for at := off; at < end && err == nil; at += int64(len(buf)) {
			if _, err = f.ReadAt(buf[:min(int64(len(buf)), end-at)], at); errors.Is(err, io.EOF) {
				err = nil
			}
		}
	}
	return errors.Join(err, f.Close())
}

// warm touches memory and gives it back: in a virtual machine, the host would have
// to find the memory that was not used lately while the task is timed.
func warm() error {
	b, err := syscall.Mmap(-1, 0, warmBytes, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE|syscall.MAP_POPULATE)
	if err != nil {
		return err
	}
	return syscall.Munmap(b)
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
