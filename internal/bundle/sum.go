package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// contentSum is the SHA-256 of what a guest reads on a disk, all bytes of it.
func contentSum(ctx context.Context, store *chain.Store, nodes []chain.Node, done func(n int64)) (string, error) {
	h := sha256.New()
	if err := store.Stream(ctx, nodes, h, done); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// fileSum is the SHA-256 of a file, and how many bytes it has.
func fileSum(ctx context.Context, path string) (sum string, size int64, err error) {
	f, _, err := openPlain(path)
	if err != nil {
		return "", 0, err
	}
	h := sha256.New()
	size, err = io.Copy(h, &patient{ctx, f})
	return hex.EncodeToString(h.Sum(nil)), size, errors.Join(err, f.Close())
}

// A patient reader ends with its context.
type patient struct {
	ctx context.Context
	io.Reader
}

func (p *patient) Read(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	return p.Reader.Read(b)
}
