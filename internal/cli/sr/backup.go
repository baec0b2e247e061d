package sr

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/guestfs"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/vhdbridge/pool"
)

// mostBackup is how large the disk of a metadata backup may be, in bytes: xe-backup-metadata makes
// one of 500 MiB.
const mostBackup = 8 << 30

// mostDumps is how many dumps are looked at: xe-backup-metadata keeps 25 of a pool.
const mostDumps = 256

// byHand is what there is to do where a dump is not found, or cannot be read.
const byHand = "how one is taken out by hand is in docs/migration.md, \"The metadata backup\""

var errNoDump = errors.New("there is no dump in its root (POOL.db, by the UUID of the pool; older ones POOL.db.1 …)")

// readBackup reads the newest dump on the disk that xe-backup-metadata writes to, and tells which.
func readBackup(r *images.Run, p *pool.Pool, path string, disk *pool.ImageError) (note string, err error) {
	raw, err := rawDisk(r, path, disk.Format)
	if err != nil {
		return "", fmt.Errorf("%w; %w", disk, err)
	}
	defer raw.Close()
	fs := &guestfs.Ext{Disk: raw}
	f, at, err := newestDump(r, fs)
	if errors.Is(err, guestfs.ErrNotExt) {
		return "", fmt.Errorf("%w; %w", disk, err)
	}
	if err != nil {
		return "", fmt.Errorf("%w; %w; %s", disk, err, byHand)
	}
	if err := fs.Read(r.Ctx(), f, p.Read); err != nil {
		return "", fmt.Errorf("%q on it, of %s: %w; of an older one, %s", f.Name, at.Format(time.DateTime), err, byHand)
	}
	return fmt.Sprintf("a metadata backup; names are from %s on it, of %s UTC", f.Name, at.Format(time.DateTime)), nil
}

// rawDisk is what a guest sees of the disk, as a file without a name; of a raw one, itself.
func rawDisk(r *images.Run, path, format string) (*os.File, error) {
	if format == "raw" {
		return os.Open(path)
	}
	s := formats.Store(r.Store.FS, nil)
	nodes, err := s.Chain(path, format)
	if err != nil {
		return nil, err
	}
	view, err := s.View(nodes)
	if err != nil {
		return nil, err
	}
	defer view.Close()
	head := make([]byte, 2048)
	if _, err := view.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if !pool.IsExt(head) {
		return nil, guestfs.ErrNotExt
	}
	if view.Size() > mostBackup {
		return nil, fmt.Errorf("it has %s, and that of a metadata backup 500 MiB", host.Bytes(view.Size()))
	}
	raw, err := guestfs.Scratch()
	if err != nil {
		return nil, err
	}
	if err := copySparse(raw, io.NewSectionReader(view, 0, view.Size()), view.Size()); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return raw, nil
}

// copySparse leaves out zeros.
func copySparse(to *os.File, from io.Reader, size int64) error {
	b := make([]byte, 64<<10)
	for at := int64(0); at < size; {
		n, err := io.ReadFull(from, b[:min(int64(len(b)), size-at)])
		if err != nil {
			return err
		}
		if !chain.AllZero(b[:n]) {
			if _, err := to.WriteAt(b[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
	}
	return to.Truncate(size)
}

// dumpName is what xe-backup-metadata calls a dump: by the pool, and how many newer ones there are.
var dumpName = regexp.MustCompile(`^[0-9A-Za-z-]{1,64}\.db(?:\.([0-9]{1,4}))?$`)

// newestDump finds the dump that has none newer; of several pools, that which was written last.
func newestDump(r *images.Run, fs *guestfs.Ext) (dump guestfs.ExtFile, at time.Time, err error) {
	files, err := fs.Root(r.Ctx())
	if err != nil {
		return dump, at, err
	}
	var found []guestfs.ExtFile
	newer := map[string]int{}
	for _, f := range files {
		if m := dumpName.FindStringSubmatch(f.Name); m != nil && f.Size > 0 && len(found) < mostDumps {
			found = append(found, f)
			newer[f.Name], _ = strconv.Atoi(m[1]) // none: 0
		}
	}
	if len(found) == 0 {
		return dump, at, errNoDump
	}
	slices.SortStableFunc(found, func(a, b guestfs.ExtFile) int { return newer[a.Name] - newer[b.Name] })
	for _, f := range found {
		if newer[f.Name] > newer[found[0].Name] {
			break
		}
		written, err := fs.Modified(r.Ctx(), f)
		if err != nil {
			return dump, at, err
		}
		if at.IsZero() || written.After(at) {
			dump, at = f, written
		}
	}
	return dump, at, nil
}
