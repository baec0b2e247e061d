package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// A Bundle is an exported state whose manifest has been read, and those of all that it builds on.
type Bundle struct {
	Dir string
	Manifest
	ManifestSHA256 string
	Base           *Bundle // of an increment
}

// A DamagedError says what is wrong with an export.
type DamagedError struct{ Path, Reason string }

func (e *DamagedError) Error() string { return e.Path + ": " + e.Reason }

func damaged(path, format string, args ...any) error {
	return &DamagedError{path, fmt.Sprintf(format, args...)}
}

// Open reads the manifest in dir, and those of the exports that it builds on. It opens no image.
func Open(dir string) (*Bundle, error) {
	dir, err := filepath.Abs(dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir) // the user's own words
	}
	if err != nil {
		return nil, err
	}
	b, err := openOne(dir)
	if err != nil {
		return nil, err
	}
	return b, b.openBases()
}

// openBases opens what an increment builds on, down to the whole export.
func (b *Bundle) openBases() error {
	for n, at := 1, b; at.Manifest.Base != nil; n, at = n+1, at.Base {
		if n == maxChain {
			return damaged(b.Dir, "it builds on more than %d exports", maxChain)
		}
		below, err := openOne(filepath.Join(filepath.Dir(at.Dir), at.Manifest.Base.Dir))
		if err != nil {
			return fmt.Errorf("the export that %s builds on: %w", at.Dir, err)
		}
		if below.ManifestSHA256 != at.Manifest.Base.ManifestSHA256 {
			return damaged(below.Dir, "it is not the export that %s was made on: its manifest is another one", at.Dir)
		}
		at.Base = below
		if err := at.fitsBase(); err != nil {
			return err
		}
	}
	return nil
}

// fitsBase compares what the disks of an increment build on with what is there.
func (b *Bundle) fitsBase() error {
	if b.UUID != b.Base.UUID {
		return damaged(b.Dir, "it is of another guest than %s", b.Base.Dir)
	}
	for i := range b.Disks {
		d := &b.Disks[i]
		if d.Backing == "" {
			continue
		}
		if below := b.Base.Disk(d.Target); below == nil || d.Backing != backingName(b.Manifest.Base.Dir, below.File) {
			return damaged(b.path(d.File), "it builds on %q, which is no disk %s of %s", d.Backing, d.Target, b.Base.Dir)
		}
	}
	return nil
}

func openOne(dir string) (*Bundle, error) {
	info, err := os.Lstat(dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, damaged(dir, "it is not a directory")
	}
	b := &Bundle{Dir: dir}
	text, err := readSmall(b.path(ManifestName), maxManifest)
	if errors.Is(err, os.ErrNotExist) {
		return nil, damaged(dir, "it is no export of virt-rotate: it has no %s", ManifestName)
	}
	if err != nil {
		return nil, err
	}
	if err := decode(text, &b.Manifest); err != nil {
		return nil, damaged(b.path(ManifestName), "%v", err)
	}
	if err := b.sound(); err != nil {
		return nil, damaged(b.path(ManifestName), "%v", err)
	}
	b.ManifestSHA256 = sumOf(text)
	return b, nil
}

// decode reads one JSON object, and nothing after it.
func decode(text []byte, to any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(to); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is something after its end")
	}
	return nil
}

func sumOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

func (b *Bundle) path(name string) string { return filepath.Join(b.Dir, name) }

// Chain lists the exports that this one is made of, the whole one first.
func (b *Bundle) Chain() []*Bundle {
	var all []*Bundle
	for ; b != nil; b = b.Base {
		all = append(all, b)
	}
	slices.Reverse(all)
	return all
}

// openPlain opens a regular file, and no link to one.
func openPlain(path string) (*os.File, os.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, nil, damaged(path, "it is a symbolic link")
	}
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = damaged(path, "it is not a regular file")
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

func readSmall(path string, most int64) ([]byte, error) {
	f, info, err := openPlain(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info.Size() > most {
		return nil, damaged(path, "it has %d bytes, more than %d", info.Size(), most)
	}
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) != info.Size() {
		err = damaged(path, "it changes while it is read")
	}
	return text, err
}

// File reads a file that is no disk, and compares it with its sum.
func (b *Bundle) File(f *File) ([]byte, error) {
	text, err := readSmall(b.path(f.File), f.Size)
	if err == nil && sumOf(text) != f.SHA256 {
		err = damaged(b.path(f.File), "it is not what the manifest says: its SHA-256 is another one")
	}
	return text, err
}

// Nodes lists the images of a disk, base first, once their headers have been compared with the
// manifests.
func (b *Bundle) Nodes(store *chain.Store, target string) (nodes []chain.Node, err error) {
	for at := b; at != nil; at = at.Base {
		d := at.Disk(target)
		n, err := at.node(store, d)
		if err != nil {
			return nil, err
		}
		if nodes = append(nodes, n); d.Backing == "" {
			break
		}
	}
	slices.Reverse(nodes)
	return nodes, nil
}

// node looks at one image.
func (b *Bundle) node(store *chain.Store, d *Disk) (n chain.Node, err error) {
	path := b.path(d.File)
	f, _, err := openPlain(path)
	if err != nil {
		return n, err
	}
	if err = f.Close(); err != nil {
		return n, err
	}
	if n, err = store.Node(path, d.Format); err != nil {
		return n, damaged(path, "%v", err)
	}
	i := n.Image
	switch {
	case i.Backing != d.Backing:
		return n, damaged(path, "it builds on %q, and the manifest says %q", i.Backing, d.Backing)
	case d.Backing != "" && i.BackingFormat != chain.QEMUName(b.Base.Disk(d.Target).Format):
		return n, damaged(path, "it takes what it builds on for %q", i.BackingFormat)
	case i.VirtualSize != d.VirtualSize:
		return n, damaged(path, "the guest sees %d bytes of it, and the manifest says %d", i.VirtualSize, d.VirtualSize)
	case i.Encrypted || i.DataFile || i.Corrupt:
		return n, damaged(path, "it is encrypted, corrupt or has its data in another file: no export is")
	}
	return n, nil
}
