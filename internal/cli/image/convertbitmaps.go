package image

import (
	"errors"
	"fmt"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/formats"
)

// checkBitmaps sees that what --bitmaps asks for can be had, before anything is made.
func checkBitmaps(r *images.Run, nodes []chain.Node, format *formats.Format, o *images.Options) error {
	if !r.Bool("bitmaps") {
		if r.Bool("skip-broken-bitmaps") {
			return term.Usagef("--skip-broken-bitmaps goes with --bitmaps")
		}
		return nil
	}
	for _, flag := range []string{"no-create", "snapshot"} {
		if r.IsSet(flag) {
			return term.Usagef("--bitmaps and --%s exclude each other: image bitmap --merge brings bitmaps into an image that is there", flag)
		}
	}
	if maker, ok := o.Maker.(formats.Measurer); format.Bitmaps == nil || !ok || !maker.Bitmaps() {
		return term.Usagef("--bitmaps: images of format %s, as they are asked for, have no persistent bitmaps", format.Name)
	}
	if r.Bool("skip-broken-bitmaps") {
		return nil
	}
	if !r.Bool("chain") {
		nodes = nodes[len(nodes)-1:]
	}
	for _, n := range nodes {
		if err := checkSaved(r, n); err != nil {
			return err
		}
	}
	return nil
}

// checkSaved refuses an image with bitmaps that nobody can trust.
func checkSaved(r *images.Run, n chain.Node) error {
	list, err := bitmapsOf(r, n)
	if err != nil {
		return fmt.Errorf("%s: %w", n.Path, err)
	}
	for _, b := range list {
		if b.InUse() {
			return &chain.RefusedError{Path: n.Path, Reason: fmt.Sprintf("the bitmap %q was not saved by the program that used it last: --skip-broken-bitmaps leaves it out", b.Name)}
		}
	}
	return nil
}

func bitmapsOf(r *images.Run, n chain.Node) (list []formats.Bitmap, err error) {
	format, err := formats.Named(n.Image.Format)
	if err != nil || format.Bitmaps == nil {
		return nil, err
	}
	f, err := r.Store.FS.Open(n.Path, false)
	if err != nil {
		return nil, err
	}
	err = formats.ReadSteady(f, func(size int64) error {
		list, err = format.Bitmaps(f, size)
		return err
	})
	return list, errors.Join(err, f.Close())
}
