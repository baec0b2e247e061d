package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// List looks at dir before it opens it: opening what is about to be mounted mounts it.
func (osFS) List(dir string, on uint64, most int) (Listing, error) {
	look, flag := os.Stat, 0
	if on != 0 {
		look, flag = os.Lstat, unix.O_NOFOLLOW
	}
	fi, err := look(dir)
	if err != nil {
		return Listing{}, err
	}
	if err := checkDir(dir, fi, on); err != nil {
		return Listing{}, err
	}
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|flag, 0)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		err = fs.ErrNotExist // it was a directory just now
	}
	if err != nil {
		return Listing{}, err
	}
	l, err := list(f, on, most)
	return l, errors.Join(err, f.Close())
}

func checkDir(dir string, fi fs.FileInfo, on uint64) error {
	switch {
	case !fi.IsDir():
		return kindError(dir, fi)
	case on != 0 && infoOf(fi).ID.Dev != on:
		return &fs.PathError{Op: "list", Path: dir, Err: ErrOtherFS}
	}
	return nil
}

// list reads the open directory f, and one entry more than is asked for.
func list(f *os.File, on uint64, most int) (Listing, error) {
	fi, err := f.Stat()
	if err != nil {
		return Listing{}, err
	}
	if err := checkDir(f.Name(), fi, on); err != nil {
		return Listing{}, err
	}
	entries, err := f.ReadDir(max(most, 0) + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return Listing{}, err
	}
	l := Listing{FS: infoOf(fi).ID.Dev, Entries: make([]Entry, 0, len(entries)), More: len(entries) > most}
	for _, e := range entries[:min(most, len(entries))] {
		l.Entries = append(l.Entries, Entry{e.Name(), e.Type()})
	}
	slices.SortFunc(l.Entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return l, nil
}
