package qcow2

import (
	"bytes"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// deflateWindow is how far back a deflate stream may refer, in bytes: QEMU
// unpacks with windowBits 12.
const deflateWindow = 4096

// Pack compresses one whole cluster as the image has them compressed, and tells
// whether that saves space. The caller fills in the Offset of what it returns.
func (m *Image) Pack(cluster []byte) (Packed, bool) { return m.Packer()(cluster) }

// Packer returns a function that does what Pack does, again and again with the
// same memory. The function is not for concurrent use, but several of them are.
func (m *Image) Packer() func(cluster []byte) (Packed, bool) {
	pack := deflater()
	if m.h.CompressionType == CompressionZstd {
		pack = zstandard()
	}
	size, method := m.cluster(), m.Method()
	return func(cluster []byte) (chain.Packed, bool) {
		if int64(len(cluster)) != size {
			return chain.Packed{}, false
		}
		b, err := pack(cluster)
		if err != nil || len(b) >= len(cluster) {
			return chain.Packed{}, false
		}
		return chain.Packed{Method: method, Bytes: b}, true
	}
}

// deflater makes raw deflate streams.
func deflater() func([]byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := flate.NewWriterWindow(&out, deflateWindow)
	return func(cluster []byte) ([]byte, error) {
		if err != nil {
			return nil, err
		}
		out.Reset()
		w.Reset(&out)
		if _, err := w.Write(cluster); err != nil {
			return nil, err
		}
		if err := w.Close(); err != nil {
			return nil, err
		}
		return bytes.Clone(out.Bytes()), nil
	}
}

// zstandard makes frames that tell their length.
func zstandard() func([]byte) ([]byte, error) {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
	return func(cluster []byte) ([]byte, error) {
		if err != nil {
			return nil, err
		}
		return e.EncodeAll(cluster, nil), nil
	}
}
