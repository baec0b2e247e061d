package chain

import "github.com/virt-rotate/virt-rotate/internal/vfs"

// Preallocated images have clusters for the whole disk, most of which were never written:
// they lie in holes of the file, and read as zeros. Who copies such an image does not want to
// write them.

// A preallocated layer tells, quickly, whether it has data in holes of its file.
type preallocated interface{ Preallocated() (bool, error) }

// LookForHoles makes Find tell data of the first n layers that lies in a hole of the file
// as Zero. Those layers must not change meanwhile.
func (s *Stack) LookForHoles(n int) error {
	s.holes = make([]*holes, len(s.layers))
	for i, l := range s.layers[:n] {
		p, ok := l.(preallocated)
		if !ok {
			continue
		}
		yes, err := p.Preallocated()
		if err != nil {
			return err
		}
		if yes {
			s.holes[i] = &holes{file: hostOf(l)}
		}
	}
	return nil
}

// holes remembers where data is in a file: from off to start there is none, up to end
// there is.
type holes struct {
	file            vfs.File
	off, start, end int64
}

// divide returns the beginning of an extent of data: what the file has, or Zero where it has
// nothing.
func (h *holes) divide(x Extent) (Extent, error) {
	if x.Host < h.off || x.Host >= h.end {
		start, end, err := h.file.NextData(x.Host)
		if err != nil {
			return Extent{}, err
		}
		h.off, h.start, h.end = x.Host, start, end
	}
	switch {
	case h.start == h.end: // nothing up to the end of the file, and nothing beyond it
		h.off, h.start, h.end = 0, 0, 0
		x.Kind, x.Host = Zero, NoHost
	case x.Host < h.start:
		x.Length = min(x.Length, h.start-x.Host)
		x.Kind, x.Host = Zero, NoHost
	default:
		x.Length = min(x.Length, h.end-x.Host)
	}
	return x, nil
}
