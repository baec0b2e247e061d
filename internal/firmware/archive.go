package firmware

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A Label says what a file is of.
type Label struct {
	Version  int       `json:"version"`
	Domain   string    `json:"domain"`
	UUID     string    `json:"uuid"`
	Snapshot string    `json:"snapshot"`
	Taken    time.Time `json:"taken"`
	Sum      string    `json:"sha256"` // of names and contents; Write fills it in
}

// version is the layout of the files.
const version = 1

// Names in the archive.
const (
	nameLabel = "label.json"
	nameNVRAM = "nvram"
	dirTPM    = "tpm/"
)

// mostBytes bounds a file as a whole, and mostLabel its label.
const (
	mostBytes = mostNVRAM + mostTPM + 1<<20
	mostLabel = 64 << 10
)

// Write writes the state to a new file of mode 0600, durable, whole or not at all.
func (s *State) Write(path string, l Label) error {
	data, err := s.archive(l)
	if err != nil {
		return err
	}
	return vfs.WriteFile(path, data, 0o600)
}

// Fill writes the state into a file that is there, empty, for who has to name its inode before
// anything is in it. It is durable once Fill returns.
func (s *State) Fill(path string, l Label) error {
	data, err := s.archive(l)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (s *State) archive(l Label) ([]byte, error) {
	l.Version, l.Sum = version, s.sum()
	label, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err = add(w, nameLabel, &File{Mode: 0o600, Data: append(label, '\n')}, l.Taken)
	if s.NVRAM != nil && err == nil {
		err = add(w, nameNVRAM, s.NVRAM, l.Taken)
	}
	for i := range s.TPM {
		if err == nil {
			err = add(w, dirTPM+s.TPM[i].Name, &s.TPM[i], l.Taken)
		}
	}
	err = errors.Join(err, w.Close())
	return b.Bytes(), err
}

func add(w *tar.Writer, name string, f *File, at time.Time) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(f.Data)), Mode: int64(f.Mode.Perm()), Uid: f.UID, Gid: f.GID, ModTime: at.UTC().Truncate(time.Second)}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.Write(f.Data)
	return err
}

// sum covers names, modes, owners and contents.
func (s *State) sum() string {
	h := sha256.New()
	one := func(name string, f *File) {
		fmt.Fprintf(h, "%s %o %d %d %d\n", name, f.Mode.Perm(), f.UID, f.GID, len(f.Data))
		h.Write(f.Data)
	}
	if s.NVRAM != nil {
		one(nameNVRAM, s.NVRAM)
	}
	for i := range s.TPM {
		one(dirTPM+s.TPM[i].Name, &s.TPM[i])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Load reads a file that Write has written. The error names it, and says what is wrong with it.
func Load(file string) (*State, Label, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, Label{}, err
	}
	defer f.Close()
	s, l, err := read(io.LimitReader(f, mostBytes))
	if err != nil {
		return nil, Label{}, fmt.Errorf("%s: %w", file, err)
	}
	return s, l, nil
}

func read(in io.Reader) (*State, Label, error) {
	s, l, err := parse(in)
	if err == nil && l.Sum != s.sum() {
		err = errors.New("its sum is another one: it is damaged")
	}
	return s, l, err
}

func parse(in io.Reader) (*State, Label, error) {
	s, l := &State{}, Label{}
	r := tar.NewReader(in)
	for n := 0; ; n++ {
		h, err := r.Next()
		switch {
		case errors.Is(err, io.EOF) && n > 0:
			return s, l, nil
		case err != nil:
			return nil, l, fmt.Errorf("not a firmware state: %w", err)
		case n > mostFiles+1:
			return nil, l, errors.New("it has too many files")
		}
		if err := s.take(r, h, &l, n); err != nil {
			return nil, l, err
		}
	}
}

// take reads the n-th file of the archive.
func (s *State) take(r io.Reader, h *tar.Header, l *Label, n int) error {
	name, inTPM := strings.CutPrefix(h.Name, dirTPM)
	switch {
	case h.Typeflag != tar.TypeReg:
		return fmt.Errorf("%q is not a regular file", h.Name)
	case n == 0 && h.Name == nameLabel && h.Size <= mostLabel:
		return l.read(r)
	case n == 0:
		return errors.New("it does not begin with a label")
	case h.Name == nameNVRAM && s.NVRAM == nil && h.Size <= mostNVRAM:
		f, err := newFile(r, h, nameNVRAM)
		s.NVRAM = f
		return err
	case inTPM && path.Base(name) == name && isTPMState(name) && h.Size <= mostTPM:
		f, err := newFile(r, h, name)
		if err == nil {
			s.TPM = append(s.TPM, *f)
		}
		return err
	}
	return fmt.Errorf("%q does not belong there", h.Name)
}

func (l *Label) read(r io.Reader) error {
	if err := json.NewDecoder(r).Decode(l); err != nil {
		return fmt.Errorf("its label: %w", err)
	}
	if l.Version != version {
		return fmt.Errorf("its layout is version %d, which this program does not know", l.Version)
	}
	return nil
}

func newFile(r io.Reader, h *tar.Header, name string) (*File, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", h.Name, err)
	}
	return &File{name, fs.FileMode(h.Mode).Perm(), h.Uid, h.Gid, data}, nil
}
