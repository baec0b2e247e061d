package image

import (
	"fmt"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/convert"
	"github.com/virt-rotate/virt-rotate/internal/formats"
)

// backingOptions puts together what -B, -F and -o say of a backing file.
func backingOptions(r *images.Run, o *images.Options, format *formats.Format) error {
	if r.IsSet("backing") {
		o.Backing = r.String("backing")
	}
	if r.IsSet("backing-format") {
		o.BackingFormat = r.String("backing-format")
	}
	if o.Backing == "" && o.BackingFormat == "" {
		return nil
	}
	for _, flag := range []string{"chain", "no-create", "snapshot", "compress"} {
		if r.IsSet(flag) {
			return term.Usagef("-B and --%s exclude each other", flag)
		}
	}
	return checkBacking(o, format)
}

// onBacking lets the new image be an overlay on what the source builds on: of another one
// nobody knows that the guest would read the same.
func onBacking(r *images.Run, c *convert.Conversion) error {
	file, plain := chain.PlainPath(c.Path, c.New.Backing)
	if !plain {
		return &chain.RefusedError{Path: c.Path, Reason: fmt.Sprintf("the backing file %q is not a plain path", c.New.Backing)}
	}
	below, err := r.Store.Node(file, c.New.BackingFormat)
	if err != nil {
		return fmt.Errorf("backing file: %w", err)
	}
	if n := len(c.Nodes); n < 2 || c.Nodes[n-2].Info.ID != below.Info.ID || c.Nodes[n-2].Image.Format != below.Image.Format {
		return &chain.RefusedError{Path: c.Source().Path, Reason: fmt.Sprintf("it does not build on %s: convert it without -B, and let image rebase -b put the new image on it", below.Path)}
	}
	c.Own, c.New.ParentID = true, below.Image.ID
	return formats.CheckBuildsOn(c.Path, c.Format.Name, below)
}
