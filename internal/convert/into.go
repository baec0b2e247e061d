package convert

import (
	"context"
	"errors"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// PlanInto looks at the image at path, file or device, that is to get what another disk has,
// of so many bytes. Nobody else may use it, the kernel neither.
func PlanInto(s *chain.Store, path, format string, size int64, scan []string) (*chain.Into, error) {
	nodes, err := s.Chain(path, format)
	if err != nil {
		return nil, err
	}
	top := len(nodes) - 1
	to := &chain.Into{Below: nodes[:top], Image: nodes[top], Scan: scan}
	claim, err := vfs.Claim(to.Image.Path)
	if err != nil {
		return nil, err
	}
	return to, errors.Join(to.Fits(size), claim.Close())
}

// into writes over what is there.
func (v *Converter) into(ctx context.Context, c *Conversion, done func(int64)) error {
	claim, err := vfs.Claim(c.Into.Image.Path)
	if err != nil {
		return err
	}
	options := chain.ConvertOptions{Sparse: v.Sparse, RawOnly: v.RawOnly, State: c.State}
	return errors.Join(v.Store.ConvertInto(ctx, c.Nodes, c.Into, options, done), claim.Close())
}
