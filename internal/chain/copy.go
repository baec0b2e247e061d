package chain

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Limits of what is copied at once.
const (
	copyChunk   = 16 << 20 // bytes: between two of them, progress is told and cancelling looked for
	copyWorkers = 4
)

// A hostCopy copies bytes between host files.
type hostCopy struct {
	to, from int64
	n        int64
	gaps     int64 // bytes of n that only lie between what is to be copied: see bridge
	dst, src vfs.File
}

// copyAll carries out copies, which are disjoint, side by side. Neighbours are
// taken together, so that extents are shared by few calls.
func copyAll(ctx context.Context, copies []hostCopy, done func(n int64)) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(copyWorkers)
	told := make(chan int64, copyWorkers)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for n := range told {
			done(n)
		}
	}()
	for _, c := range joinCopies(copies) {
		g.Go(func() error { return c.run(ctx, told) })
	}
	err := g.Wait()
	close(told)
	<-finished
	return err
}

func joinCopies(copies []hostCopy) []hostCopy {
	var out []hostCopy
	for _, c := range copies {
		if k := len(out) - 1; k >= 0 && out[k].goesOn(c) {
			out[k].n += c.n
			out[k].gaps += c.gaps
		} else {
			out = append(out, c)
		}
	}
	return out
}

func (c hostCopy) goesOn(next hostCopy) bool {
	return c.dst == next.dst && c.src == next.src && c.to+c.n == next.to && c.from+c.n == next.from
}

// run copies in chunks: shared extents whole, since that moves no data.
func (c hostCopy) run(ctx context.Context, told chan<- int64) error {
	chunk := int64(copyChunk)
	for at := int64(0); at < c.n; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(chunk, c.n-at)
		shared, err := c.dst.Copy(c.to+at, c.src, c.from+at, n)
		if err != nil {
			return fmt.Errorf("copy %d bytes of %s at %d to %s at %d: %w", n, c.src.Path(), c.from+at, c.dst.Path(), c.to+at, err)
		}
		if shared {
			chunk = max(chunk, 1<<40)
		}
		at += n
		if at == c.n {
			n -= c.gaps
		}
		told <- n
	}
	return nil
}
