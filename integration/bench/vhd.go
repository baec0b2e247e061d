package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// vhdTasks compare work on VHDs with what qemu-img does on qcow2 images of the same
// content: it knows no differencing VHDs.
func vhdTasks() []task {
	var flats [][]string
	for i := 1; i <= 5; i++ {
		flats = append(flats, []string{"convert", "-f", "qcow2", "-O", "qcow2", fmt.Sprintf("f%d.qcow2", i), fmt.Sprintf("flat%d.qcow2", i)})
	}
	return []task{
		{"VHD: commit of 1 GiB in random 64 KiB pieces", []string{"empty.qcow2", "top.qcow2", "empty.vhd", "top.vhd"},
			[]string{"commit", "top.vhd"}, [][]string{{"commit", "-q", "-f", "qcow2", "-d", "top.qcow2"}}, ".", 0.6, 0.2},
		{"VHD: convert a chain of 6 to a qcow2 chain, against each of its flat states", append(chainOf("qcow2"), chainOf("vhd")...),
			[]string{"convert", "--chain", "-O", "qcow2", "f5.vhd", "out"}, flats, ".", 0.5, 0.05},
	}
}

func chainOf(format string) []string {
	var names []string
	for i := range 6 {
		names = append(names, fmt.Sprintf("f%d.%s", i, format))
	}
	return names
}

// makeVHDs converts the chains of the other tasks.
func (b *imageBench) makeVHDs(ctx context.Context) error {
	for _, top := range []string{"top", "f5"} {
		for _, args := range [][]string{
			{b.binary, "image", "convert", "-q", "--chain", "-O", "vhd", top + ".qcow2", "vhds"},
			{"sh", "-c", "mv vhds/* . && rmdir vhds"},
		} {
			if err := b.run(ctx, b.dir, args...); err != nil {
				return err
			}
		}
	}
	return nil
}

// repositoryNodes is how many VHDs a large repository has, in chains of ten.
const repositoryNodes = 10000

// largeRepository measures what it takes to look at a large storage repository.
func largeRepository(ctx context.Context, binary, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for i := range repositoryNodes {
		if err := makeNode(dir, i); err != nil {
			return err
		}
	}
	fmt.Printf("\n| repository | virt-rotate | aim | peak memory, MiB |\n|---|---|---|---|\n")
	var took []time.Duration
	var peak int64
	for range imageRounds {
		cmd := exec.CommandContext(ctx, binary, "sr", "scan", "--output=json", dir)
		began := time.Now()
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("sr scan: %w", err)
		}
		took = append(took, time.Since(began))
		if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
			peak = max(peak, usage.Maxrss)
		}
	}
	fmt.Printf("| sr scan of %d VHDs | %d ms | 1200 ms, 200 MiB | %d |\n", repositoryNodes, median(took).Milliseconds(), peak>>10)
	return nil
}

// makeNode makes the i-th node; the first of ten builds on nothing, all but the last
// of ten are hidden.
func makeNode(dir string, i int) error {
	name := func(i int) string { return fmt.Sprintf("%08x-0000-4000-8000-%012x.vhd", i, i) }
	f, err := vfs.OS().Create(filepath.Join(dir, name(i)), 0o600)
	if err != nil {
		return err
	}
	o := vhd.CreateOptions{Size: 32 << 30}
	if i%10 > 0 {
		o.Backing, o.BackingFormat, o.ParentID = name(i-1), "vhd", nodeID(i-1).String()
	}
	o.UUID = nodeID(i)
	err = vhd.Create(f, o)
	if err == nil && i%10 < 9 {
		err = vhdbridge.HideVHD(f, true)
	}
	return errors.Join(err, f.Close())
}

func nodeID(i int) vhd.UUID {
	return vhd.UUID{0: 1, 12: byte(i >> 24), 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)}
}
