package xva

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// An input remembers why it could not be read: decompressors tell less.
type input struct {
	r     io.Reader
	plain bool // not compressed
	err   error
}

func (i *input) Read(p []byte) (int, error) {
	n, err := i.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		i.err = err
	}
	return n, err
}

// A counter knows how many bytes were read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// maxWindow is what a zstd stream may ask for, in bytes; xapi asks for far less.
const maxWindow = 128 << 20

// decompress looks at the magic: of gzip (RFC 1952, 2.3.1), of zstd (RFC 8878, 3.1.1),
// or the name of the first member of a tar archive.
func (x *Reader) decompress(r *bufio.Reader) (io.Reader, error) {
	magic, _ := r.Peek(len(descriptor)) // an error comes again
	switch {
	case x.in.err != nil:
		return nil, x.in.err
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, ErrNotXVA
		}
		return z, nil
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		x.undo = z.Close
		return z, nil
	}
	x.in.plain = true
	return r, nil
}
