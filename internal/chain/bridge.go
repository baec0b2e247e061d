package chain

import (
	"io"
	"slices"
)

// A Scratcher is a target in whose file there are stretches that nothing shows before Flush:
// what is copied there beside the pieces does no harm.
type Scratcher interface {
	// Scratch tells whether all n bytes at off of the file are such a stretch. They will be
	// a copy of those at from of src, or an error ends the change.
	Scratch(off, n int64, src io.ReaderAt, from int64) bool
}

// mostBridged is how much may lie between two pieces that are shared by one call, in bytes.
const mostBridged = 4 << 20

// bridge has pieces shared together with what lies between them, where source and target
// have them in the same distance from each other and nothing else goes there: an extent that
// is shared costs a call each, however large it is. The copies are in the order of the source.
// Taken are stretches of the target that have been copied already.
func bridge(copies []hostCopy, taken []hostCopy, to Target) []hostCopy {
	s, ok := to.(Scratcher)
	if !ok || len(copies) == 0 {
		return copies
	}
	places := make([]int64, 0, len(copies)+len(taken)) // where something begins in the target
	for _, c := range slices.Concat(copies, taken) {
		places = append(places, c.to)
	}
	slices.Sort(places)
	out := copies[:1:1]
	for _, c := range copies[1:] {
		last := &out[len(out)-1]
		if gap, ok := last.gapTo(c); ok && free(places, last.to+last.n, gap) && s.Scratch(last.to+last.n, gap, last.src, last.from+last.n) {
			last.gaps += gap + c.gaps
			last.n += gap + c.n
			continue
		}
		out = append(out, c)
	}
	return out
}

// gapTo is how much lies between two copies of which the second goes on as the first, if
// that can be shared.
func (c hostCopy) gapTo(next hostCopy) (gap int64, ok bool) {
	gap = next.to - (c.to + c.n)
	return gap, gap > 0 && gap <= mostBridged && c.dst == next.dst && c.src == next.src &&
		next.from-(c.from+c.n) == gap && Shareable(c.to|c.from, c.n) && Shareable(next.to|next.from, next.n)
}

// free tells whether nothing begins within n bytes at off.
func free(places []int64, off, n int64) bool {
	i, _ := slices.BinarySearch(places, off)
	return i == len(places) || places[i] >= off+n
}
