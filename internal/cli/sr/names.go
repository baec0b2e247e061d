package sr

import (
	"errors"
	"fmt"
	"os"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
	"github.com/virt-rotate/virt-rotate/vhdbridge/pool"
)

func namesFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "names", Usage: "what guests and VDIs are called: `FILE` of xe pool-dump-database, of xe vm-list, vdi-list, vbd-list, vif-list or snapshot-list params=all, or a .vmmeta; may be repeated"}
}

// namesOf reads the files of --names; nil if there are none.
func namesOf(r *images.Run) (*pool.Pool, error) {
	files := r.StringSlice("names")
	if len(files) == 0 {
		return nil, nil
	}
	p := &pool.Pool{}
	for _, path := range files {
		if err := readNames(p, path); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return p, nil
}

func readNames(p *pool.Pool, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return errors.Unwrap(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		return errors.New("it is a directory: want a file")
	}
	err = p.Read(f)
	var disk *pool.ImageError
	if errors.As(err, &disk) {
		return fmt.Errorf("%w: %s", err, metadataHelp)
	}
	return err
}

// metadataHelp is how the dumps are got out of the disk that xe-backup-metadata writes to.
const metadataHelp = "virt-rotate sr convert SR --vdi UUID --flatten -O raw --to DIR; " +
	"debugfs -R 'dump /POOL.db pool.db' DIR/UUID.raw (or: guestfish --ro -a DIR/UUID.raw -m /dev/sda download /POOL.db pool.db)"

// named tells the repository what the files of --names say of its VDIs. What it has said itself
// stays where they say nothing.
func named(r *images.Run, repo *vhdbridge.Repository) error {
	p, err := namesOf(r)
	if err == nil && p != nil {
		repo.Name(p.VDIs())
	}
	return err
}
