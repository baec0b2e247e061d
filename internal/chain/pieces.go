package chain

import "bytes"

// joinPieces puts pieces together that follow one another on the disk.
func joinPieces(pieces []Piece) []Piece {
	var out []Piece
	for _, p := range pieces {
		if k := len(out) - 1; k >= 0 && out[k].Offset+out[k].Length == p.Offset {
			out[k].Length += p.Length
		} else {
			out = append(out, p)
		}
	}
	return out
}

func cmp64(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// AllZero tells whether b has only zeros.
func AllZero(b []byte) bool {
	const step = 4096
	for len(b) > step {
		if !bytes.Equal(b[:step], zeros[:]) {
			return false
		}
		b = b[step:]
	}
	return bytes.Equal(b, zeros[:len(b)])
}

var zeros [4096]byte
