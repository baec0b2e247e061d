package qcow2

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// frugal fails a test that reads more at once than any field may ask for: the
// length of a read is the length of an allocation here.
type frugal struct {
	t testing.TB
	r *bytes.Reader
}

func (f frugal) ReadAt(p []byte, off int64) (int, error) {
	if len(p) > blankPiece || off < 0 {
		f.t.Fatalf("reads %d bytes at %d", len(p), off)
	}
	return f.r.ReadAt(p, off)
}

// FuzzReadHeader: an image that is read is read the same once its fixed header
// has been encoded again, and every error is of a known kind.
func FuzzReadHeader(f *testing.F) {
	for _, image := range samples(f) {
		f.Add(image)
	}
	f.Fuzz(func(t *testing.T, image []byte) {
		size := int64(len(image))
		h, err := ReadHeader(frugal{t, bytes.NewReader(image)}, size)
		if err != nil {
			wantKnownError(t, err)
			return
		}
		if len(h.Extensions) > maxExtensions || h.l1Entries() > int64(h.L1Size) {
			t.Fatalf("%+v", h)
		}
		if g, err := chain.GlanceAt(bytes.NewReader(image)); err != nil || g.Format != "qcow2" || g.Backing != h.BackingFile {
			t.Fatalf("%q; at a glance %+v, %v", h.BackingFile, g, err)
		}
		again := reencode(t, h, image)
		if h2, err := ReadHeader(bytes.NewReader(again), size); err != nil || !reflect.DeepEqual(h, h2) {
			t.Fatalf("read %+v, again %+v, %v", h, h2, err)
		}
		if _, err := Blank(frugal{t, bytes.NewReader(image)}, h, size); err != nil {
			t.Fatal(err) // all of the L1 table is within the file
		}
	})
}

func wantKnownError(t *testing.T, err error) {
	t.Helper()
	var malformed *FormatError
	var unsupported *UnsupportedError
	if !errors.Is(err, ErrNotQcow2) && !errors.As(err, &malformed) && !errors.As(err, &unsupported) {
		t.Fatal(err)
	}
}

// reencode puts the fixed header of h over everything that it covers.
func reencode(t *testing.T, h Header, image []byte) []byte {
	t.Helper()
	var b [headerLen]byte
	covered := min(h.HeaderLength, offCompressionType+1)
	copy(b[covered:], image[covered:])
	h.encode(&b)
	out := bytes.Clone(image)
	copy(out, b[:])
	return out
}

// FuzzDecodeHeader: decode(encode(decode(b))) = decode(b), from the fixed
// header alone and so with more hits than FuzzReadHeader.
func FuzzDecodeHeader(f *testing.F) {
	for _, image := range samples(f) {
		f.Add(image[:headerLen])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var in, out [headerLen]byte
		copy(in[:], b)
		h, err := decodeHeader(&in)
		if err != nil {
			wantKnownError(t, err)
			return
		}
		h.encode(&out)
		if again, err := decodeHeader(&out); err != nil || !reflect.DeepEqual(again, h) {
			t.Fatalf("decode(encode(%+v)) = %+v, %v", h, again, err)
		}
	})
}
