package formats

import (
	"io"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/qcow2"
)

// Measured is how large the file of a new image would be, in bytes; keys are qemu-img's.
type Measured struct {
	Bitmaps  *int64 `json:"bitmaps,omitempty"` // more for persistent ones, where images have them
	Required int64  `json:"required"`
	Full     int64  `json:"fully-allocated"`
}

// A Measurer is a Maker that can tell how large an image would be.
type Measurer interface {
	Maker
	// Unit is what data is stored in, in bytes.
	Unit() int64
	// Measure tells it of a new image with so many bytes of data, in whole units.
	Measure(n New, data int64) (Measured, error)
	// Bitmaps tells whether the new image can have persistent bitmaps.
	Bitmaps() bool
}

func (m *qcow2Maker) Unit() int64 {
	const defaultCluster = 65536
	if m.options.ClusterSize == 0 {
		return defaultCluster
	}
	return m.options.ClusterSize
}

func (m *qcow2Maker) Bitmaps() bool { return m.options.Version != 2 }

func (m *qcow2Maker) Measure(n New, data int64) (r Measured, err error) {
	o := m.options
	o.Size, o.Backing, o.BackingFormat = n.Size, n.Backing, n.BackingFormat
	if n.Room >= chain.RoomFalloc {
		data = n.Size
	}
	r.Required, r.Full, err = qcow2.Measure(o, data)
	return r, err
}

func (rawMaker) Unit() int64 { return 1 }

func (rawMaker) Bitmaps() bool { return false }

func (rawMaker) Measure(n New, _ int64) (Measured, error) {
	const sector = 512
	size := (n.Size + sector - 1) / sector * sector
	return Measured{Required: size, Full: size}, nil
}

// bitmapsQcow2 is what the persistent bitmaps of an image take in one with such clusters;
// nil of an image that cannot have any.
func bitmapsQcow2(r io.ReaderAt, size, cluster int64) (*int64, error) {
	h, err := qcow2.ReadHeader(r, size)
	if err != nil || h.Version < 3 {
		return nil, err
	}
	n, err := qcow2.MeasureBitmaps(r, h, cluster)
	return &n, err
}
