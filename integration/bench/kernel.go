package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// What the kernel offers for the work of a commit: 1 GiB in pieces of 64 KiB, scattered in a file that is
// in memory, go to a new file, one after the other as clusters do, and are durable at the end.

const (
	kernelPiece  = 64 << 10
	kernelPieces = 1 << 30 / kernelPiece
	kernelSpread = 8 << 30 // of the source, in bytes
	kernelRounds = 5
)

// A way copies one piece to a place in the target.
type way struct {
	name    string
	direct  bool // the target is written past the kernel's memory
	workers int
	copy    func(w *copier, from, to int64) error
}

func ways() []way {
	return []way{
		{"copy_file_range, one after the other", false, 1, (*copier).inKernel},
		{"copy_file_range, two at a time", false, 2, (*copier).inKernel},
		{"copy_file_range, four at a time", false, 4, (*copier).inKernel},
		{"pread and pwrite, one after the other", false, 1, (*copier).buffered},
		{"pread and pwrite, four at a time", false, 4, (*copier).buffered},
		{"pread, and pwrite with O_DIRECT, one after the other", true, 1, (*copier).buffered},
		{"pread, and pwrite with O_DIRECT, four at a time", true, 4, (*copier).buffered},
		{"pread, and pwrite with O_DIRECT, sixteen at a time", true, 16, (*copier).buffered},
	}
}

// A copier is one of the workers.
type copier struct {
	from, to *os.File
	buffer   []byte
}

func (c *copier) inKernel(from, to int64) error {
	for n := kernelPiece; n > 0; {
		done, err := unix.CopyFileRange(int(c.from.Fd()), &from, int(c.to.Fd()), &to, n, 0)
		if err != nil || done == 0 {
			return errors.Join(err, errors.New("copy_file_range has stopped"))
		}
		n -= done
	}
	return nil
}

func (c *copier) buffered(from, to int64) error {
	if _, err := c.from.ReadAt(c.buffer, from); err != nil {
		return err
	}
	_, err := c.to.WriteAt(c.buffer, to)
	return err
}

// kernelWays measures them in turn.
func kernelWays(ctx context.Context, _ string) error {
	dir, err := os.MkdirTemp("", "vr-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	source, places, err := scatteredFile(filepath.Join(dir, "source"))
	if err != nil {
		return err
	}
	defer source.Close()
	all := ways()
	took := make([][]time.Duration, len(all))
	for range kernelRounds {
		for i, w := range all {
			if err := ctx.Err(); err != nil {
				return err
			}
			d, err := w.measure(source, places, filepath.Join(dir, "target"))
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			took[i] = append(took[i], d)
		}
	}
	fmt.Printf("\n| 1 GiB in %d pieces to a new file, with fdatasync | time |\n|---|---|\n", kernelPieces)
	for i, w := range all {
		fmt.Printf("| %s | %d ms |\n", w.name, median(took[i]).Milliseconds())
	}
	return syncs(filepath.Join(dir, "target"))
}

// scatteredFile is a file with pieces at random places, and where they are.
func scatteredFile(path string) (*os.File, []int64, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, nil, err
	}
	r := rand.New(rand.NewPCG(17, 17))
	var places []int64
	piece := make([]byte, kernelPiece)
	for _, n := range r.Perm(kernelSpread / kernelPiece)[:kernelPieces] {
		for i := range piece {
			piece[i] = byte(r.Uint32())
		}
		at := int64(n) * kernelPiece
		if _, err := f.WriteAt(piece, at); err != nil {
			return nil, nil, errors.Join(err, f.Close())
		}
		places = append(places, at)
	}
	return f, places, f.Sync()
}

func (w *way) measure(source *os.File, places []int64, target string) (took time.Duration, err error) {
	flags := os.O_RDWR | os.O_CREATE | os.O_EXCL
	if w.direct {
		flags |= syscall.O_DIRECT
	}
	f, err := os.OpenFile(target, flags, 0o600)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	var g errgroup.Group
	for k := range w.workers {
		g.Go(func() error {
			c := &copier{source, f, aligned(kernelPiece)}
			for i := k; i < len(places); i += w.workers {
				if err := w.copy(c, places[i], int64(i)*kernelPiece); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = g.Wait()
	if err == nil {
		err = unix.Fdatasync(int(f.Fd()))
	}
	return time.Since(began), errors.Join(err, f.Close(), os.Remove(target))
}

// syncs compares the ways to make a small change durable, as a merge does six times.
func syncs(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, kernelPiece); err != nil {
		return err
	}
	fmt.Print("\n| 64 KiB written over and made durable | time |\n|---|---|\n")
	for _, s := range []struct {
		name string
		sync func(fd int) error
	}{{"fsync", unix.Fsync}, {"fdatasync", unix.Fdatasync}, {"syncfs", unix.Syncfs}} {
		var took []time.Duration
		for range 51 {
			if _, err := f.WriteAt(aligned(kernelPiece), 0); err != nil {
				return err
			}
			began := time.Now()
			if err := s.sync(int(f.Fd())); err != nil {
				return err
			}
			took = append(took, time.Since(began))
		}
		fmt.Printf("| %s | %.2f ms |\n", s.name, float64(median(took).Microseconds())/1000)
	}
	return nil
}
