package guest

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

var ring = Params{Slots: 7, Stride: 3, Batch: 1, Length: 4}

// image is a disk in memory; it does not grow.
type image []byte

func (m image) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

func newImage(t *testing.T, blocks uint64) image {
	t.Helper()
	m := make(image, 10*SlotSize+sectorSize)
	if err := Write(m, ring, 1, blocks); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestCheckCountsTheBlocksOfAPrefix(t *testing.T) {
	for want := range uint64(30) {
		got, err := Check(bytes.NewReader(newImage(t, want)), ring)
		if err != nil || got != want {
			t.Errorf("after %d blocks: %d, %v", want, got, err)
		}
	}
}

func TestCheckSeesWhatNoGuestWrote(t *testing.T) {
	at := func(k uint64) int64 { return int64(ring.slot(k)) * SlotSize }
	tests := map[string]func(m image){
		"a byte changed":               func(m image) { m[at(9)+1234]++ },
		"a byte in a fresh slot":       func(m image) { m[6] = 1 },
		"a byte after a block":         func(m image) { m[at(9)+4*sectorSize]++ },
		"a block that is too long":     func(m image) { copy(m[at(9):], block(9, 5)) },
		"a next block that is longer":  func(m image) { copy(m[at(11):], block(11, 5)) },
		"a sector lost":                func(m image) { clear(m[at(8)+sectorSize : at(8)+2*sectorSize]) },
		"a block lost":                 func(m image) { clear(m[at(8) : at(8)+SlotSize]) },
		"an older block in its place":  func(m image) { copy(m[at(9):], block(2, 4)) },
		"a block of the future":        func(m image) { copy(m[at(12):], block(12, 4)) },
		"a block in another's slot":    func(m image) { copy(m[at(8):], block(9, 4)) },
		"data beyond the ring":         func(m image) { m[8*SlotSize] = 1 },
		"data in the last sector":      func(m image) { m[len(m)-1] = 1 },
		"two sectors of later writes":  func(m image) { copy(m[at(11):], block(11, 1)); copy(m[at(12):], block(12, 1)) },
		"a torn block with other data": func(m image) { copy(m[at(11):], block(11, 1)); m[at(11)+600]++ },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			m := newImage(t, 10)
			spoil(m)
			k, err := Check(bytes.NewReader(m), ring)
			var wrong *BlockError
			if !errors.As(err, &wrong) {
				t.Fatalf("%d, %v", k, err)
			}
			t.Log(err)
		})
	}
}

func TestCheckTellsATornLastBlockFromAWrongOne(t *testing.T) {
	for _, done := range []uint64{0, 4, 10} {
		m := newImage(t, done)
		copy(m[ring.slot(done+1)*SlotSize:], block(done+1, 3))
		if k, err := Check(bytes.NewReader(m), ring); k != done || !errors.Is(err, ErrTorn) {
			t.Errorf("block %d in part: %d, %v", done+1, k, err)
		}
	}
}

func TestCheckRefusesADiskThatEndsWithinTheRing(t *testing.T) {
	m := newImage(t, 3)[:6*SlotSize]
	if _, err := Check(bytes.NewReader(m), ring); !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
}

func TestDisksOfOneMoment(t *testing.T) {
	tests := []struct {
		ks []uint64
		ok bool
	}{
		{nil, true}, {[]uint64{5}, true}, {[]uint64{5, 5}, true}, {[]uint64{5, 4}, true},
		{[]uint64{5, 5, 4}, true}, {[]uint64{5, 4, 4}, true}, {[]uint64{0, 0}, true},
		{[]uint64{5, 6}, false}, {[]uint64{5, 3}, false}, {[]uint64{5, 4, 3}, false}, {[]uint64{5, 4, 5}, false},
	}
	for _, test := range tests {
		if err := CheckTogether(test.ks...); (err == nil) != test.ok {
			t.Errorf("%v: %v", test.ks, err)
		}
	}
}
