package qcow2

import (
	"context"
	"sync"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"golang.org/x/sync/errgroup"
)

const (
	zeroPiece   = 1 << 20 // how much is looked at at once, in bytes
	zeroWorkers = 4       // that look side by side
)

// A zeroMap has for each cluster of the file a bit for each subcluster that reads as
// zeros; without subclusters all bits are alike. It takes 4 bytes for a cluster that lies
// in a page with data.
type zeroMap struct {
	pages []*[1 << countPageBits]uint32
}

// at is 0 for all that nobody has looked at.
func (z *zeroMap) at(cluster int64) uint32 {
	if z == nil {
		return 0
	}
	if i := cluster >> countPageBits; i < int64(len(z.pages)) && z.pages[i] != nil {
		return z.pages[i][cluster&(1<<countPageBits-1)]
	}
	return 0
}

func (z *zeroMap) set(cluster int64, mask uint32) {
	i := cluster >> countPageBits
	for int64(len(z.pages)) <= i {
		z.pages = append(z.pages, nil)
	}
	if z.pages[i] == nil {
		z.pages[i] = new([1 << countPageBits]uint32)
	}
	z.pages[i][cluster&(1<<countPageBits-1)] = mask
}

// lookForZeros reads all clusters that hold data of the guest, each once and in the order
// of the file, however many states share it.
func (c *compaction) lookForZeros(ctx context.Context) error {
	c.zero = &zeroMap{}
	if err := c.markData(); err != nil {
		return err
	}
	var all errgroup.Group
	all.SetLimit(zeroWorkers)
	buffers := sync.Pool{New: func() any { return new([]byte) }}
	err := c.pieces(func(first, n int64) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		all.Go(func() error {
			b := buffers.Get().(*[]byte)
			defer buffers.Put(b)
			return c.look(b, first, n)
		})
		c.told(n << c.l.clusterBits)
		return nil
	})
	if failed := all.Wait(); failed != nil {
		return failed
	}
	return err
}

func (c *compaction) told(n int64) {
	if c.o.Progress != nil {
		c.o.Progress(n)
	}
}

// markData takes all data for zeros, until somebody has looked.
func (c *compaction) markData() error {
	_, err := usage(c.f, c.h, c.size, func(r *ref) error {
		if r.kind == refData && r.reason == "" && r.entry.desc&entryZero == 0 &&
			(!c.l.extended || uint32(r.entry.bitmap) != 0) {
			c.zero.set(r.offset>>c.l.clusterBits, allSubclusters)
		}
		return nil
	})
	return err
}

// pieces calls visit for stretches of clusters that are marked and not in a hole of the
// file.
func (c *compaction) pieces(visit func(first, n int64) error) error {
	most := max(1, int64(zeroPiece)>>c.l.clusterBits)
	dataEnd := int64(0)
	for i := int64(0); i < c.counts.clusters; {
		if c.zero.at(i) == 0 {
			i = c.zero.next(i, c.counts.clusters)
			continue
		}
		if i<<c.l.clusterBits >= dataEnd {
			start, end, err := c.f.NextData(i << c.l.clusterBits)
			if err != nil {
				return err
			}
			if dataEnd = end; start>>c.l.clusterBits > i {
				i = start >> c.l.clusterBits
				continue
			}
		}
		n := int64(1)
		for n < most && (i+n)<<c.l.clusterBits < dataEnd && c.zero.at(i+n) != 0 {
			n++
		}
		if err := visit(i, n); err != nil {
			return err
		}
		i += n
	}
	return nil
}

// next is the first place after i where a cluster may be marked.
func (z *zeroMap) next(i, end int64) int64 {
	if p := i >> countPageBits; p >= int64(len(z.pages)) || z.pages[p] == nil {
		return min(end, (p+1)<<countPageBits)
	}
	return i + 1
}

// look reads n clusters, and takes the marks away from what is not zeros.
func (c *compaction) look(buf *[]byte, first, n int64) error {
	if want := n << c.l.clusterBits; int64(len(*buf)) < want {
		*buf = make([]byte, want)
	}
	b := (*buf)[:n<<c.l.clusterBits]
	if err := readPadded(c.f, b, first<<c.l.clusterBits, c.size); err != nil {
		return err
	}
	for i := range n {
		if mask := c.l.zeroMask(b[i<<c.l.clusterBits:][:c.l.cluster()]); mask != allSubclusters {
			c.zero.set(first+i, mask)
		}
	}
	return nil
}

// zeroMask tells which subclusters of a cluster are zeros.
func (l layout) zeroMask(cluster []byte) (mask uint32) {
	if chain.AllZero(cluster) {
		return allSubclusters
	}
	if !l.extended {
		return 0
	}
	for i := range int64(subclusters) {
		if chain.AllZero(cluster[i*l.granule():][:l.granule()]) {
			mask |= 1 << i
		}
	}
	return mask
}
