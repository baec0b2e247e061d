package qcow2

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// Method is the way in which clusters are compressed, with all that decides
// whether another image can take them as they are.
func (m *Image) Method() string { return method(&m.h) }

func method(h *Header) string {
	name := "zlib"
	if h.CompressionType == CompressionZstd {
		name = "zstd"
	}
	return fmt.Sprintf("%s/%d", name, h.ClusterSize())
}

// Packed returns the compressed cluster that begins at off.
func (m *Image) Packed(off int64) (chain.Packed, error) {
	e, err := m.entry(off)
	if err != nil {
		return chain.Packed{}, err
	}
	if !e.compressed() {
		return chain.Packed{}, fmt.Errorf("cluster at %d is not compressed", off)
	}
	b, err := m.readPacked(e)
	return chain.Packed{Offset: off, Method: m.Method(), Bytes: b}, err
}

// readPacked reads the sectors of a compressed cluster. The last may be cut: only
// its first bytes need be there.
func (m *Image) readPacked(e entry) ([]byte, error) {
	off, n := m.packed(e)
	b := make([]byte, min(n, m.size-off))
	return b, readFull(m.f, b, off, "compressed cluster")
}

// unpack returns the cluster that holds off, whole. It is valid until the next call.
func (m *Image) unpack(off int64) ([]byte, error) {
	e, err := m.entry(off)
	if err != nil {
		return nil, err
	}
	if m.raw != nil && m.rawOf == e.desc {
		return m.raw, nil
	}
	packed, err := m.readPacked(e)
	if err != nil {
		return nil, err
	}
	if m.raw == nil {
		m.raw = make([]byte, m.cluster())
	}
	m.rawOf = 0
	if err := inflate(m.raw, packed, m.h.CompressionType); err != nil {
		at, _ := m.packed(e)
		return nil, &FormatError{at, "compressed cluster", err.Error()}
	}
	m.rawOf = e.desc
	return m.raw, nil
}

// inflate unpacks exactly one cluster: what would follow is not looked at, so
// that a bomb does no harm. Packed may have bytes after the end of the stream.
func inflate(out, packed []byte, method uint8) error {
	var r io.Reader
	if method == CompressionZstd {
		d, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(uint64(4*len(out))+1<<20), zstd.WithDecoderMaxWindow(8<<20))
		if err != nil {
			return err
		}
		defer d.Close()
		r = d
	} else {
		r = flate.NewReader(bytes.NewReader(packed))
	}
	if _, err := io.ReadFull(r, out); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return errors.New("it unpacks to less than a cluster")
		}
		return err
	}
	return nil
}
