package sr

import (
	"errors"
	"fmt"
	"os"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
	"github.com/virt-rotate/virt-rotate/vhdbridge/pool"
)

func namesFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "names", Usage: "what guests and VDIs are called: `FILE` of xe pool-dump-database, of xe vm-list, vdi-list, vbd-list, vif-list or snapshot-list params=all, a .vmmeta, or the disk of a metadata backup; may be repeated"}
}

// namesOf reads the files of --names; nil if there are none. Notes are for people.
func namesOf(r *images.Run) (p *pool.Pool, notes []string, err error) {
	files := r.StringSlice("names")
	if len(files) == 0 {
		return nil, nil, nil
	}
	p = &pool.Pool{}
	for _, path := range files {
		note, err := readNames(r, p, path)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", path, err)
		}
		if note != "" {
			notes = append(notes, fmt.Sprintf("%s: %s", path, note))
		}
	}
	return p, notes, nil
}

// readNames reads a file, or the dump that a disk holds, of which the note tells.
func readNames(r *images.Run, p *pool.Pool, path string) (note string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", errors.Unwrap(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		return "", errors.New("it is a directory: want a file")
	}
	err = p.Read(f)
	var disk *pool.ImageError
	if errors.As(err, &disk) {
		return readBackup(r, p, path, disk)
	}
	return "", err
}

// named tells the repository what the files of --names say of its VDIs. What it has said itself
// stays where they say nothing.
func named(r *images.Run, repo *vhdbridge.Repository) error {
	p, notes, err := namesOf(r)
	if err != nil || p == nil {
		return err
	}
	for _, note := range notes {
		if !r.Bool("quiet") {
			fmt.Fprintln(r.Err, "virt-rotate:", term.Printable(note))
		}
	}
	repo.Name(p.VDIs())
	return nil
}
