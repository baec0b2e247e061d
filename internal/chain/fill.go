package chain

import (
	"cmp"
	"context"
	"fmt"
	"slices"
)

// Bounds of one round of placing, copying and flushing. Each round has a few
// barriers of its own, so they are wide; they bound memory.
const (
	roundGranules = 256 << 10
	roundBounced  = 64 << 20 // bytes that go through memory
	bounceChunk   = 4 << 20
	shareBlock    = 4096 // of file systems that share extents
)

// A fill brings into a target what a stack of layers has, granule by granule:
// what is whole granules of data is copied from host file to host file, what is
// not is read as the guest sees it and written.
type fill struct {
	to     Target
	from   *Stack // what it finds is to be in the target
	except int    // the layer of from whose extents are there already; NoLayer for none
	view   *Stack // the disk as the guest sees it
	below  int64  // up to here, in bytes, something shows through holes of the target
	// wanted tells whether a stretch that was found is wanted; nil wants all. It
	// may answer for the first n bytes only.
	wanted func(f Found) (want bool, n int64, err error)
	// zeroed makes data that is nothing but zeros Zero; nil leaves it data.
	zeroed func(f *Found) error
	holes  bool          // holes through all of from are asked for as well: they are zeros
	size   int64         // that the disk will have, where the target has yet to be resized
	done   func(n int64) // progress: bytes; may be nil
	// prepared, if not nil, is called once the target is prepared, and before it is changed.
	prepared func() error

	merged []Source // the layers whose data the target gets: their bitmaps go with it

	unit          int64 // what rounds are counted in, in bytes: see counter
	tried, shares bool  // whether copies share extents
}

// A round is what is placed and flushed together.
type round struct {
	data   []sourced // to be copied from a host file
	read   []Piece   // to be read from the view
	zeros  []Piece
	packed []sourced
	copied []hostCopy // of data, already
	bytes  int64      // of data, read and packed
	read64 int64      // bytes of read
	units  int64
}

// sourced is a piece with the place where it is now.
type sourced struct {
	Piece
	layer int
	from  int64
}

// Amount is how much a merge or copy moves.
type Amount struct {
	Bytes  int64 `json:"bytes"`  // of data
	Pieces int   `json:"pieces"` // stretches of it
}

// measure goes over everything without changing anything.
func (f *fill) measure(ctx context.Context) (a Amount, err error) {
	err = f.rounds(ctx, func(r *round) error {
		a.Bytes += r.bytes
		a.Pieces += len(r.data) + len(r.read) + len(r.packed)
		return nil
	})
	return a, err
}

// run fills the target. Cancelled, or after an error, it leaves the target
// valid: it holds part of what it was to get.
func (f *fill) run(ctx context.Context) error {
	return f.rounds(ctx, func(r *round) error {
		if err := f.carryOut(ctx, r); err != nil {
			return err
		}
		f.from.Forget()
		f.view.Forget()
		return nil
	})
}

// rounds collects one round after the other.
func (f *fill) rounds(ctx context.Context, do func(*round) error) error {
	end := cmp.Or(f.size, f.to.Image().VirtualSize)
	f.setUnit()
	f.from.Forget()
	for off := int64(0); off < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		r := &round{}
		next, err := f.collect(ctx, r, off, end)
		if err != nil {
			return err
		}
		if r.units > 0 {
			if err := do(r); err != nil {
				return err
			}
		}
		off = next
	}
	return nil
}

// A counter is a target whose rounds are not counted in granules, but in this many
// bytes: where granules are small and cost little, rounds of them would be short.
type counter interface{ RoundUnit() int64 }

// setUnit asks the target what rounds are counted in.
func (f *fill) setUnit() {
	f.unit = f.to.Granule()
	if c, ok := f.to.(counter); ok {
		f.unit = c.RoundUnit()
	}
}

// collect fills r with what is to be done from off on, and returns where it got.
func (f *fill) collect(ctx context.Context, r *round, off, end int64) (int64, error) {
	g := f.to.Granule()
	for off < end && r.units < roundGranules && r.read64 < roundBounced {
		if err := ctx.Err(); err != nil {
			return off, err
		}
		x, want, err := f.find(off, end)
		if err != nil {
			return off, err
		}
		whole := x.Length &^ (g - 1)
		if x.End() == end {
			whole = x.Length
		}
		if whole > 0 {
			whole = min(whole, (roundGranules-r.units)*f.unit)
			if err := f.note(r, x, want, whole); err != nil {
				return off, err
			}
			off += whole
			continue
		}
		n := min(g, end-off)
		if want, err = f.any(off, off+n); err != nil {
			return off, err
		}
		if want {
			r.read = append(r.read, Piece{Offset: off, Length: n})
			r.count(n, f.unit)
			r.read64 += n
		}
		off += n
	}
	return off, nil
}

func (r *round) count(n, unit int64) {
	r.bytes += n
	r.units += (n + unit - 1) / unit
}

// find returns what from has at off, and whether the target is to have it.
func (f *fill) find(off, end int64) (Found, bool, error) {
	if size := f.from.Size(); off < size {
		end = min(end, size)
	}
	x, err := f.from.Find(off, end)
	if err != nil || x.Layer == NoLayer && !f.holes || x.Layer == f.except && f.except != NoLayer {
		return x, false, err
	}
	if f.wanted == nil {
		return x, true, nil
	}
	want, n, err := f.wanted(x)
	x.Length = n
	if err == nil && want && f.zeroed != nil {
		err = f.zeroed(&x)
	}
	return x, want, err
}

// any tells whether the target is to have anything of [off, end).
func (f *fill) any(off, end int64) (bool, error) {
	for off < end {
		x, want, err := f.find(off, end)
		if want || err != nil {
			return want, err
		}
		off = x.End()
	}
	return false, nil
}

// note adds whole granules of an extent to r.
func (f *fill) note(r *round, x Found, want bool, n int64) error {
	if !want {
		return nil
	}
	p := Piece{Offset: x.Offset, Length: n}
	switch x.Kind {
	case Data:
		r.data = append(r.data, sourced{p, x.Layer, x.Host})
		r.count(n, f.unit)
	case Compressed:
		if f.packs(x, n) {
			r.packed = append(r.packed, sourced{p, x.Layer, 0})
		} else {
			r.read = append(r.read, p)
			r.read64 += n
		}
		r.count(n, f.unit)
	case Zero, Hole:
		return f.noteZeros(r, p)
	}
	return nil
}

// packs tells whether the target takes the compressed cluster as it is.
func (f *fill) packs(x Found, n int64) bool {
	to, ok := f.to.(PackedTarget)
	if !ok || n != min(f.to.Granule(), f.to.Image().VirtualSize-x.Offset) {
		return false
	}
	from, ok := f.from.layers[x.Layer].(interface{ Method() string })
	_, packed := f.from.layers[x.Layer].(PackedSource)
	return ok && packed && from.Method() == to.Method()
}

// noteZeros adds zeros, but where the target reads as zeros anyway.
func (f *fill) noteZeros(r *round, p Piece) error {
	for off, end := p.Offset, min(p.Offset+p.Length, f.to.Image().VirtualSize); off < end; {
		x, err := f.to.Extent(off, end)
		if err != nil {
			return err
		}
		if x.Kind != Zero && (x.Kind != Hole || off < f.below) {
			from, to := off&^(f.to.Granule()-1), x.End()
			if g := f.to.Granule(); to%g != 0 && to != end {
				to += g - to%g
			}
			r.zeros = append(r.zeros, Piece{Offset: from, Length: min(to, end) - from})
			r.units += (min(to, end) - from + f.unit - 1) / f.unit
			off = min(to, end)
			continue
		}
		off = x.End()
	}
	return nil
}

// carryOut does one round: room first, then data, then what makes it visible.
func (f *fill) carryOut(ctx context.Context, r *round) error {
	// In the order of the source: read and write go forward both.
	slices.SortStableFunc(r.data, func(a, b sourced) int {
		if a.layer != b.layer {
			return a.layer - b.layer
		}
		return cmp64(a.from, b.from)
	})
	if err := f.reserve(r); err != nil {
		return err
	}
	for _, do := range []func(context.Context, *round) error{f.copyData, f.copyRead, f.copyPacked, f.setZeros} {
		if err := do(ctx, r); err != nil {
			return err
		}
	}
	if err := f.to.Flush(); err != nil {
		return fmt.Errorf("%s: %w", pathOf(f.to), err)
	}
	return nil
}

// reserve sees to it that there is room for the round. Data that shares its extents
// takes none.
func (f *fill) reserve(r *round) error {
	if err := f.try(r); err != nil {
		return err
	}
	n := r.bytes
	if f.shares {
		for _, s := range r.data {
			n -= s.Length
		}
	}
	return f.room(n, len(r.data)+len(r.read)+len(r.packed))
}

func (f *fill) room(n int64, pieces int) error {
	if err := f.to.Reserve(n, pieces); err != nil {
		return fmt.Errorf("%s: room for %d bytes: %w", pathOf(f.to), n, err)
	}
	return nil
}

func (f *fill) place(pieces []Piece) ([]Piece, error) {
	placed, err := f.to.Place(pieces)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pathOf(f.to), err)
	}
	return placed, nil
}

func (f *fill) copyData(ctx context.Context, r *round) error {
	f.sharing(f.shares)
	defer f.sharing(false)
	pieces := make([]Piece, len(r.data))
	for i := range r.data {
		pieces[i] = r.data[i].Piece
	}
	placed, err := f.place(pieces)
	if err != nil {
		return err
	}
	copies := f.pair(r.data, placed)
	if f.shares {
		copies = bridge(copies, r.copied, f.to)
	}
	return copyAll(ctx, copies, f.told)
}

// Shareable tells whether n bytes at off of a host file can share their extents with
// another place: file systems do so with whole blocks.
func Shareable(off, n int64) bool { return (off|n)%shareBlock == 0 }

// try copies a little, to see whether extents are shared. What cannot be decided in
// this round is in the next.
func (f *fill) try(r *round) error {
	n := f.unit
	if f.tried || n < shareBlock { // small clusters land between the blocks
		return nil
	}
	i := slices.IndexFunc(r.data, func(s sourced) bool {
		return s.Length >= n && s.Offset%n == 0 && Shareable(s.from, n)
	})
	if i < 0 {
		return nil
	}
	if err := f.room(n, 1); err != nil {
		return err
	}
	f.to.Relocate(true)
	f.sharing(true)
	defer f.sharing(false)
	s := r.data[i]
	s.Length = n
	placed, err := f.place([]Piece{s.Piece})
	if err != nil {
		return err
	}
	f.tried = len(placed) == 1 // in pieces they may be too small
	r.copied = f.pair([]sourced{s}, placed)
	for _, c := range r.copied {
		shared, err := c.dst.Copy(c.to, c.src, c.from, c.n)
		if err != nil {
			return err
		}
		f.shares = f.tried && shared
	}
	f.to.Relocate(f.shares)
	f.told(n)
	r.drop(i, n)
	return nil
}

// A sharer is a target that finds room in Place, and need not for what shares its extents
// with what it is copied from: whole blocks of the file system.
type sharer interface{ Sharing(yes bool) }

func (f *fill) sharing(yes bool) {
	if s, ok := f.to.(sharer); ok {
		s.Sharing(yes)
	}
}

// drop takes the first n bytes off the i-th piece of data.
func (r *round) drop(i int, n int64) {
	s := &r.data[i]
	s.Offset, s.from, s.Length = s.Offset+n, s.from+n, s.Length-n
	if s.Length == 0 {
		r.data = slices.Delete(r.data, i, i+1)
	}
	r.bytes -= n
}

// pair matches what was placed with where it comes from: both lists cover the
// same bytes in the same order, in different stretches.
func (f *fill) pair(data []sourced, placed []Piece) []hostCopy {
	var copies []hostCopy
	i, skip := 0, int64(0)
	for _, p := range placed {
		for done := int64(0); done < p.Length; {
			s := data[i]
			n := min(p.Length-done, s.Length-skip)
			copies = append(copies, hostCopy{to: p.Host + done, from: s.from + skip, n: n,
				dst: hostOf(f.to), src: hostOf(f.from.layers[s.layer])})
			done += n
			if skip += n; skip == s.Length {
				i, skip = i+1, 0
			}
		}
	}
	return copies
}

func (f *fill) told(n int64) {
	if f.done != nil {
		f.done(n)
	}
}

// copyRead reads pieces through the view and writes them.
func (f *fill) copyRead(ctx context.Context, r *round) error {
	if len(r.read) == 0 {
		return nil
	}
	placed, err := f.place(joinPieces(r.read))
	if err != nil {
		return err
	}
	buf := make([]byte, bounceChunk)
	for _, p := range placed {
		for at := int64(0); at < p.Length; {
			if err := ctx.Err(); err != nil {
				return err
			}
			b := buf[:min(int64(len(buf)), p.Length-at)]
			if _, err := f.view.ReadAt(b, p.Offset+at); err != nil {
				return err
			}
			if _, err := f.to.Host().WriteAt(b, p.Host+at); err != nil {
				return err
			}
			f.told(int64(len(b)))
			at += int64(len(b))
		}
	}
	return nil
}

func (f *fill) copyPacked(ctx context.Context, r *round) error {
	for _, s := range r.packed {
		if err := ctx.Err(); err != nil {
			return err
		}
		p, err := f.from.layers[s.layer].(PackedSource).Packed(s.Offset)
		if err != nil {
			return fmt.Errorf("%s: %w", pathOf(f.from.layers[s.layer]), err)
		}
		if err := f.to.(PackedTarget).PutPacked(p); err != nil {
			return fmt.Errorf("%s: %w", pathOf(f.to), err)
		}
		f.told(s.Length)
	}
	return nil
}

func (f *fill) setZeros(_ context.Context, r *round) error {
	for _, p := range r.zeros {
		if err := f.to.Zero(p.Offset, p.Length); err != nil {
			return fmt.Errorf("%s: %w", pathOf(f.to), err)
		}
	}
	return nil
}
