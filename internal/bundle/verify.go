package bundle

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// A Check is what is looked at, and who is told how far that is.
type Check struct {
	Store *chain.Store
	Full  bool // read what the guest would read, through all images
	// Progress is told of a piece of work and its bytes.
	Progress func(what string, total int64) (done func(n int64), end func())
}

// Verify compares the export, and all that it builds on, with their manifests: files and their
// sums, and what the images build on. It lists what is wrong; the error is one of the check
// itself, or the end of ctx.
func (c *Check) Verify(ctx context.Context, b *Bundle) (wrong []DamagedError, err error) {
	for _, one := range b.Chain() {
		found, err := one.verifyFiles(ctx)
		if err != nil {
			return nil, err
		}
		wrong = append(wrong, found...)
	}
	for _, one := range b.Chain() {
		for i := range one.Disks {
			found, err := c.verifyDisk(ctx, one, &one.Disks[i], len(wrong) == 0)
			if err != nil {
				return nil, err
			}
			wrong = append(wrong, found...)
		}
	}
	return wrong, nil
}

// verifyFiles compares the sums of one directory.
func (b *Bundle) verifyFiles(ctx context.Context) (wrong []DamagedError, err error) {
	if err := b.verifySums(); err != nil {
		if wrong, err = noted(wrong, err); err != nil {
			return nil, err
		}
	}
	for _, f := range b.sums() {
		if err := b.verifyFile(ctx, f); err != nil {
			if wrong, err = noted(wrong, err); err != nil {
				return nil, err
			}
		}
	}
	return wrong, nil
}

// noted adds an error of what is looked at to the list, and returns one of looking.
func noted(wrong []DamagedError, err error) ([]DamagedError, error) {
	var bad *DamagedError
	var path *os.PathError
	switch {
	case errors.As(err, &bad):
		return append(wrong, *bad), nil
	case errors.As(err, &path):
		return append(wrong, DamagedError{path.Path, path.Err.Error()}), nil
	}
	return nil, err
}

// verifySums holds the list for sha256sum against the manifest, byte by byte.
func (b *Bundle) verifySums() error {
	manifest, err := readSmall(b.path(ManifestName), maxManifest)
	if err != nil {
		return err
	}
	text, err := readSmall(b.path(SumsName), maxManifest)
	if err == nil && !bytes.Equal(text, b.sumsText(manifest)) {
		err = damaged(b.path(SumsName), "it does not fit %s: one of them was changed", ManifestName)
	}
	return err
}

func (b *Bundle) verifyFile(ctx context.Context, f File) error {
	info, err := os.Lstat(b.path(f.File))
	if err != nil {
		return err
	}
	if info.Mode().IsRegular() && info.Size() != f.Size {
		return damaged(b.path(f.File), "it has %d bytes, and the manifest says %d", info.Size(), f.Size)
	}
	sum, _, err := fileSum(ctx, b.path(f.File))
	if err == nil && sum != f.SHA256 {
		err = damaged(b.path(f.File), "its SHA-256 is another one than the manifest says")
	}
	return err
}

// verifyDisk looks at the images of a disk, and, where all files are right, reads through them.
func (c *Check) verifyDisk(ctx context.Context, b *Bundle, d *Disk, read bool) (wrong []DamagedError, err error) {
	nodes, err := b.Nodes(c.Store, d.Target)
	if err != nil {
		return noted(nil, err)
	}
	if !c.Full || !read {
		return nil, nil
	}
	done, end := c.Progress("read "+d.Target, d.VirtualSize)
	sum, err := contentSum(ctx, c.Store, nodes, done)
	end()
	if err == nil && sum != d.ContentSHA256 {
		err = damaged(b.path(d.File), "the guest would read other data than was exported")
	}
	if err != nil {
		return noted(nil, err)
	}
	return nil, nil
}

// Strangers are names of files in the export's directories that no manifest has.
func (b *Bundle) Strangers() (paths []string, err error) {
	for _, one := range b.Chain() {
		known := []string{ManifestName, SumsName}
		for _, f := range one.sums() {
			known = append(known, f.File)
		}
		entries, err := os.ReadDir(one.Dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if !slices.Contains(known, e.Name()) {
				paths = append(paths, one.path(e.Name()))
			}
		}
	}
	return paths, nil
}
