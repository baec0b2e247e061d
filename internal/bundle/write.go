package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A Writer makes a directory under a temporary name.
type Writer struct {
	Manifest
	Dir string // as it is to be called

	// At is called with the name of each boundary: what a process leaves that dies there is
	// as if nothing had been begun, but for a directory with a temporary name.
	At func(boundary string)

	temp *tempDir
}

// CheckFree refuses a directory that is there.
func CheckFree(dir string) error {
	_, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		return alreadyThere(dir)
	}
	return err
}

func alreadyThere(path string) error {
	return &chain.RefusedError{Path: path, Reason: "it is there already: it is left as it is"}
}

// Begin begins to make dir, where nothing may be.
func Begin(dir string, m Manifest, at func(boundary string)) (*Writer, error) {
	if err := CheckFree(dir); err != nil {
		return nil, err
	}
	m.Version = Version
	if err := m.soundHead(); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	temp, err := newTempDir(filepath.Dir(dir))
	if err != nil {
		return nil, err
	}
	at("export begun")
	return &Writer{m, dir, at, temp}, nil
}

// Path is where a file of the directory is made.
func (w *Writer) Path(name string) string { return filepath.Join(w.temp.path, name) }

// A Content is a file that is no disk, as it goes into the directory.
type Content struct {
	Kind, Name string
	Mode       fs.FileMode // as it was on the host; the file itself is for its owner alone
	UID, GID   int         // as they were on the host
	Text       []byte
}

// Add puts a file into the directory.
func (w *Writer) Add(c Content) error {
	f := File{Kind: c.Kind, File: c.Name, Mode: fmt.Sprintf("0%03o", c.Mode.Perm()), Owner: fmt.Sprintf("%d:%d", c.UID, c.GID),
		Size: int64(len(c.Text)), SHA256: sumOf(c.Text)}
	if err := f.sound(); err != nil {
		return fmt.Errorf("%s: %w", c.Name, err)
	}
	w.Files = append(w.Files, f)
	defer w.At("added " + c.Name)
	return vfs.WriteFile(w.Path(c.Name), c.Text, 0o600)
}

// Finish writes the manifest and the sums, and gives the directory its name. All else in it is
// durable.
func (w *Writer) Finish() error {
	if err := w.sound(); err != nil {
		return fmt.Errorf("%s: %w", w.Dir, err)
	}
	text, err := json.MarshalIndent(&w.Manifest, "", "    ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if len(text) > maxManifest {
		return fmt.Errorf("%s: the manifest has %d bytes, more than %d", w.Dir, len(text), maxManifest)
	}
	if err := vfs.WriteFile(w.Path(ManifestName), text, 0o600); err != nil {
		return err
	}
	w.At("manifest written")
	if err := vfs.WriteFile(w.Path(SumsName), w.sumsText(text), 0o600); err != nil {
		return err
	}
	w.At("sums written")
	if err := w.temp.name(w.Dir); err != nil {
		return err
	}
	w.At("export named")
	return w.temp.lock.Close()
}

// sumsText is what sha256sum(1) writes.
func (m *Manifest) sumsText(manifest []byte) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s\n", sumOf(manifest), ManifestName)
	for _, f := range m.sums() {
		fmt.Fprintf(&b, "%s  %s\n", f.SHA256, f.File)
	}
	return []byte(b.String())
}

// Discard removes what was begun.
func (w *Writer) Discard() error { return w.temp.remove() }
