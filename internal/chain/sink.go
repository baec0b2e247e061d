package chain

import "fmt"

const (
	sinkBlock = 1 << 20  // what is looked at for zeros at once, in bytes
	sinkRound = 64 << 20 // bytes that are placed between two flushes
)

// A Sink fills a fresh Target with data that comes once, from the beginning of the disk
// to its end. Granules of zeros, and what does not come, are left out.
type Sink struct {
	to    Target
	size  int64
	block []byte // of the disk, at off; zeros where nothing has come
	off   int64
	next  int64 // the first byte that may still come
	round int64 // room in bytes that is reserved and not yet used
}

// NewSink prepares the target, which stays the caller's to close. Its size is fixed.
func NewSink(to Target) (*Sink, error) {
	if err := to.Prepare(); err != nil {
		return nil, fmt.Errorf("%s: %w", pathOf(to), err)
	}
	return &Sink{to: to, size: to.Image().VirtualSize, block: make([]byte, max(sinkBlock, to.Granule()))}, nil
}

// Write takes b for what the disk has at off, which must not be before the end of
// what came last.
func (s *Sink) Write(off int64, b []byte) error {
	if off < s.next || off+int64(len(b)) > s.size {
		return fmt.Errorf("%s: write of %d bytes at %d: it went on to %d of %d", pathOf(s.to), len(b), off, s.next, s.size)
	}
	for len(b) > 0 {
		if at := off - off%int64(len(s.block)); at != s.off {
			if err := s.emit(); err != nil {
				return err
			}
			s.off = at
		}
		n := copy(s.block[off-s.off:], b)
		b, off = b[n:], off+int64(n)
		s.next = off
	}
	return nil
}

// WriteAt is Write as an io.WriterAt has it, for io.NewOffsetWriter.
func (s *Sink) WriteAt(b []byte, off int64) (int, error) {
	if err := s.Write(off, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Flush ends it: all that came is durable and visible.
func (s *Sink) Flush() error {
	if err := s.emit(); err != nil {
		return err
	}
	return s.flush()
}

func (s *Sink) flush() error {
	s.round = 0
	if err := s.to.Flush(); err != nil {
		return fmt.Errorf("%s: %w", pathOf(s.to), err)
	}
	return nil
}

// emit stores what the block has, and clears it.
func (s *Sink) emit() error {
	b := s.block[:min(int64(len(s.block)), s.size-s.off)]
	pieces, bytes := dataOf(b, s.off, s.to.Granule())
	if len(pieces) == 0 {
		return nil
	}
	if err := s.reserve(bytes); err != nil {
		return err
	}
	placed, err := s.to.Place(pieces)
	if err != nil {
		return fmt.Errorf("%s: %w", pathOf(s.to), err)
	}
	for _, p := range placed {
		if _, err := s.to.Host().WriteAt(b[p.Offset-s.off:][:p.Length], p.Host); err != nil {
			return err
		}
	}
	clear(s.block)
	return nil
}

// reserve sees to it that there is room for n bytes more, flushing when a round is full.
func (s *Sink) reserve(n int64) error {
	if n > s.round {
		if err := s.flush(); err != nil {
			return err
		}
		room := max(n, min(sinkRound, s.size-s.off))
		if err := s.to.Reserve(room, int(room/s.to.Granule())+1); err != nil {
			return fmt.Errorf("%s: room for %d bytes: %w", pathOf(s.to), room, err)
		}
		s.round = room
	}
	s.round -= n
	return nil
}

// dataOf lists the granules of b, which is at off, that hold anything but zeros.
func dataOf(b []byte, off, granule int64) (pieces []Piece, bytes int64) {
	for at := int64(0); at < int64(len(b)); at += granule {
		if g := b[at:min(at+granule, int64(len(b)))]; !AllZero(g) {
			pieces = append(pieces, Piece{Offset: off + at, Length: int64(len(g))})
			bytes += int64(len(g))
		}
	}
	return joinPieces(pieces), bytes
}
