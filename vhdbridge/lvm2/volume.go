package lvm2

import (
	"errors"
	"fmt"
	"io"
	"slices"
)

// ReadAt reads from the logical volume as a device would: less than is asked for at its end,
// with io.EOF.
func (v *Volume) ReadAt(b []byte, off int64) (n int, err error) {
	if v.Err != nil {
		return 0, fmt.Errorf("logical volume %s: %w", v.Name, v.Err)
	}
	if off < 0 {
		return 0, errors.New("a read from before the beginning")
	}
	for n < len(b) {
		if off >= v.Size {
			return n, io.EOF
		}
		pv, at, most := v.at(off)
		part := b[n:min(int64(len(b)), int64(n)+most)]
		done, err := pv.r.ReadAt(part, at)
		n, off = n+done, off+int64(done)
		if done < len(part) {
			return n, errors.Join(err, io.ErrUnexpectedEOF)
		}
	}
	return n, nil
}

// at tells where byte off lies, and how many follow it there.
func (v *Volume) at(off int64) (pv *PV, at, most int64) {
	i, exact := slices.BinarySearchFunc(v.segments, off, func(s segment, off int64) int { return int(min(max(s.start-off, -1), 1)) })
	if !exact {
		i--
	}
	return v.segments[i].at(off - v.segments[i].start)
}

func (s *segment) at(off int64) (pv *PV, at, most int64) {
	turn, within := off/s.stripe, off%s.stripe
	t := s.on[turn%int64(len(s.on))]
	return t.pv, t.offset + turn/int64(len(s.on))*s.stripe + within, s.stripe - within
}

// Where tells where byte off lies: on which physical volume, at which of its bytes, and how
// many bytes follow it there. Who can tell of holes in a copy, or share its blocks, wants to
// know. The error is Err, or io.EOF from the end on.
func (v *Volume) Where(off int64) (pv *PV, at, n int64, err error) {
	if v.Err != nil {
		return nil, 0, 0, fmt.Errorf("logical volume %s: %w", v.Name, v.Err)
	}
	if off < 0 || off >= v.Size {
		return nil, 0, 0, io.EOF
	}
	pv, at, n = v.at(off)
	return pv, at, n, nil
}
