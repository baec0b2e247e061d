package qcow2_test

import (
	"bytes"
	"compress/flate"
	"io"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/qcow2"
)

// packer opens a new image with clusters of 64 KiB.
func packer(t *testing.T, method uint8) *qcow2.Image {
	t.Helper()
	f, err := vfs.OS().Create(filepath.Join(t.TempDir(), "image"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := qcow2.Create(f, qcow2.CreateOptions{Size: 1 << 20, CompressionType: method}); err != nil {
		t.Fatal(err)
	}
	m, err := qcow2.Open(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// repeated is random, and repeats itself after period bytes.
func repeated(period int) []byte {
	b := make([]byte, 65536)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b[:period])
	for i := period; i < len(b); i++ {
		b[i] = b[i-period]
	}
	return b
}

func TestPackedClustersAreReadBack(t *testing.T) {
	for method, open := range map[uint8]func([]byte) io.Reader{
		qcow2.CompressionZlib: func(b []byte) io.Reader { return flate.NewReader(bytes.NewReader(b)) },
		qcow2.CompressionZstd: func(b []byte) io.Reader { d, _ := zstd.NewReader(bytes.NewReader(b)); return d },
	} {
		m := packer(t, method)
		for _, period := range []int{1, 2, 100, 3000} {
			cluster := repeated(period)
			p, ok := m.Pack(cluster)
			if !ok || p.Method != m.Method() {
				t.Fatalf("method %d, period %d: not packed", method, period)
			}
			if got, err := io.ReadAll(open(p.Bytes)); err != nil || !bytes.Equal(got, cluster) {
				t.Errorf("method %d, period %d: reads back otherwise: %v", method, period, err)
			}
		}
		if _, ok := m.Pack(repeated(65536)); ok {
			t.Error("random bytes were packed")
		}
		if _, ok := m.Pack(make([]byte, 1000)); ok {
			t.Error("less than a cluster was packed")
		}
	}
}

// QEMU unpacks with a window of 4 KiB: what repeats itself after more than that
// cannot be made smaller by a stream that it is sure to read.
func TestDeflateRefersBackNoFurtherThanQEMUsWindow(t *testing.T) {
	m := packer(t, qcow2.CompressionZlib)
	for period, want := range map[int]bool{4000: true, 4200: false, 20000: false} {
		if _, ok := m.Pack(repeated(period)); ok != want {
			t.Errorf("period %d: packed %t", period, ok)
		}
	}
}
