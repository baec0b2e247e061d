package firmware

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Bounds. Variables are 64 MiB on ARM, 0.5 MiB else; a TPM has some 10 KiB.
const (
	mostNVRAM = 128 << 20 // bytes
	mostTPM   = 16 << 20
	mostFiles = 64 // of a TPM
)

// A Place is where a guest has its firmware's state.
type Place struct {
	NVRAM string `json:",omitempty"` // a file; "" for none
	TPM   string `json:",omitempty"` // a directory; "" for none
}

// A State is what was read of a Place.
type State struct {
	NVRAM *File  // nil for none
	TPM   []File // by name
}

// A File is one of a State.
type File struct {
	Name     string // without a directory
	Mode     fs.FileMode
	UID, GID int
	Data     []byte
}

// Empty tells whether there is nothing in it.
func (s *State) Empty() bool { return s.NVRAM == nil && len(s.TPM) == 0 }

// Read reads all of it. Variables come into being with the first start: none are no error. A TPM's lock and its temporary files are no state.
func Read(p Place) (*State, error) {
	s := &State{}
	if p.NVRAM != "" {
		f, err := readFile(p.NVRAM, mostNVRAM)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("UEFI variables: %w", err)
		}
		s.NVRAM = f
	}
	if p.TPM != "" {
		if err := s.readTPM(p.TPM); err != nil {
			return nil, fmt.Errorf("TPM state: %w", err)
		}
	}
	return s, nil
}

func (s *State) readTPM(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	size := 0
	for _, e := range entries {
		if !e.Type().IsRegular() || !isTPMState(e.Name()) {
			continue
		}
		f, err := readFile(filepath.Join(dir, e.Name()), mostTPM)
		if errors.Is(err, fs.ErrNotExist) { // renamed meanwhile: who compares sees it
			continue
		}
		if err != nil {
			return err
		}
		if size += len(f.Data); size > mostTPM || len(s.TPM) == mostFiles {
			return fmt.Errorf("%s: more than %d files, or %d bytes, are no TPM's", dir, mostFiles, mostTPM)
		}
		s.TPM = append(s.TPM, *f)
	}
	return nil
}

// isTPMState tells whether swtpm keeps state in a file of that name.
func isTPMState(name string) bool {
	return strings.HasSuffix(name, ".permall") || strings.HasSuffix(name, ".volatilestate") || strings.HasSuffix(name, ".savestate")
}

func readFile(path string, most int64) (*File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, most)
	}
	return &File{filepath.Base(path), info.Mode().Perm(), int(st.Uid), int(st.Gid), data}, nil
}

// Same tells whether two states have the same content.
func (s *State) Same(o *State) bool {
	same := func(a, b File) bool { return a.Name == b.Name && bytes.Equal(a.Data, b.Data) }
	if (s.NVRAM == nil) != (o.NVRAM == nil) || s.NVRAM != nil && !bytes.Equal(s.NVRAM.Data, o.NVRAM.Data) {
		return false
	}
	return slices.EqualFunc(s.TPM, o.TPM, same)
}

// Put writes the state where a guest has its own, which must be off. Mode and owner are those of
// the state. A part for which the guest has no place, or the state none, stays as it is.
func (s *State) Put(p Place) error {
	if s.NVRAM != nil && p.NVRAM != "" {
		if err := s.NVRAM.put(p.NVRAM); err != nil {
			return fmt.Errorf("UEFI variables: %w", err)
		}
	}
	if p.TPM == "" || len(s.TPM) == 0 {
		return nil
	}
	for i := range s.TPM {
		if err := s.TPM[i].put(filepath.Join(p.TPM, s.TPM[i].Name)); err != nil {
			return fmt.Errorf("TPM state: %w", err)
		}
	}
	return s.removeOthers(p.TPM)
}

// removeOthers removes the TPM's files that the state has not, such as a volatile state.
func (s *State) removeOthers(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		mine := slices.ContainsFunc(s.TPM, func(f File) bool { return f.Name == e.Name() })
		if mine || !e.Type().IsRegular() || !isTPMState(e.Name()) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
