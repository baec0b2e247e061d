package image

import (
	"errors"
	"fmt"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/convert"
	"github.com/virt-rotate/virt-rotate/internal/formats"
)

// checkInPlace wants nothing of -n that is for new images.
func checkInPlace(r *images.Run) error {
	if !r.Bool("no-create") {
		if r.Bool("target-is-zero") {
			return term.Usagef("--target-is-zero goes with -n")
		}
		return nil
	}
	for _, flag := range []string{"compress", "chain", "options"} {
		if r.IsSet(flag) {
			return term.Usagef("-n writes into what is there: --%s is for new images", flag)
		}
	}
	return nil
}

// overwrites tells whether what is at path is written over in place: with -n, and a device
// that is to be a raw disk.
func overwrites(r *images.Run, path string, format *formats.Format) bool {
	if r.Bool("no-create") {
		return true
	}
	info, err := r.Store.FS.Stat(path)
	return err == nil && info.IsBlock && format.Name == "raw"
}

func convertInto(r *images.Run, c *convert.Conversion) error {
	r.Hint = ": the target has a part of the disk, and the source is as it was"
	err := looksRaw(r, c)
	if err != nil {
		return err
	}
	if c.Into, err = convert.PlanInto(r.Store, c.Path, c.Format.Name, c.New.Size, r.StringSlice("scan")); err != nil {
		return err
	}
	c.Into.Clear = r.Bool("target-is-zero")
	return r.Convert([]*convert.Conversion{c})
}

// looksRaw refuses to take an image for a raw disk, which nobody has said it is.
func looksRaw(r *images.Run, c *convert.Conversion) error {
	if r.IsSet("output-format") {
		return nil
	}
	n, err := r.Store.Node(c.Path, "")
	var unknown *chain.UnknownFormatError
	switch {
	case errors.As(err, &unknown) && unknown.Format == "":
		return nil
	case errors.As(err, &unknown):
		return &chain.RefusedError{Path: c.Path, Reason: fmt.Sprintf("it is a %s image: say -O raw to write over all of it", unknown.Format)}
	case err != nil:
		return err
	}
	return &chain.RefusedError{Path: c.Path, Reason: fmt.Sprintf("it is a %s image, and -O does not say so: say -O %s, or -O raw to write over all of it", n.Image.Format, n.Image.Format)}
}
