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
func (m *Image) Packed(off int64) (Packed, error) {
	e, err := m.entry(off)
	if err != nil {
		return chain.Packed{}, err
	}
	if !e.compressed() {
		return chain.Packed{}, fmt.Errorf("cluster at %d is not compressed", off)
	}
	b, err := m.readPacked(e)
	if err == nil && int64(len(b)) > m.cluster() {
		b = m.withoutRest(b)
	}
	return chain.Packed{Offset: off, Method: m.Method(), Bytes: b}, err
}

// withoutRest takes away what is after the compressed bytes in their last sector,
// as far as that makes them longer than a cluster: what QEMU compresses gets
// shorter. Others might do otherwise.
func (m *Image) withoutRest(b []byte) []byte {
	if m.inflate(make([]byte, m.cluster()), b[:m.cluster()], m.h.CompressionType) == nil {
		return b[:m.cluster()]
	}
	return b
}

// readPacked reads the sectors of a compressed cluster. The file may end in them;
// unpacking tells whether anything is missing.
func (m *Image) readPacked(e entry) ([]byte, error) {
	off, n := m.packed(e)
	b := make([]byte, n)
	got, err := m.f.ReadAt(b, off)
	switch {
	case got == 0 && errors.Is(err, io.EOF):
		return nil, malformed(off, "compressed cluster", "the file ends here")
	case got < len(b) && !errors.Is(err, io.EOF):
		return nil, fmt.Errorf("qcow2: read compressed cluster at offset %d: %w", off, err)
	}
	return b[:got], nil
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
	if err := m.inflate(m.raw, packed, m.h.CompressionType); err != nil {
		at, _ := m.packed(e)
		return nil, malformed(at, "compressed cluster", err.Error())
	}
	m.rawOf = e.desc
	return m.raw, nil
}

// An inflater unpacks clusters. Its decoders are made once: they are large.
type inflater struct {
	zlib io.ReadCloser
	zstd *zstd.Decoder
}

// inflate unpacks exactly one cluster: what would follow is not looked at, so
// that a bomb does no harm. Packed may have bytes after the end of the stream.
func (i *inflater) inflate(out, packed []byte, method uint8) error {
	r, err := i.reader(bytes.NewReader(packed), method, len(out))
	if err != nil {
		return err
	}
	if _, err := io.ReadFull(r, out); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return errors.New("it unpacks to less than a cluster")
		}
		return err
	}
	return nil
}

func (i *inflater) reader(packed io.Reader, method uint8, cluster int) (io.Reader, error) {
	if method == CompressionZlib {
		if i.zlib == nil {
			i.zlib = flate.NewReader(packed)
			return i.zlib, nil
		}
		return i.zlib, i.zlib.(flate.Resetter).Reset(packed, nil)
	}
	if i.zstd == nil {
		var err error
		i.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxMemory(uint64(4*cluster)+1<<20), zstd.WithDecoderMaxWindow(8<<20))
		if err != nil {
			return nil, err
		}
	}
	return i.zstd, i.zstd.Reset(packed)
}
