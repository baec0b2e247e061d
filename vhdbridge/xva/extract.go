package xva

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
)

// Open opens the export at path, or standard input for "-". Name is what it is to be
// called, length that of a plain file, else 0. Close it after the Reader.
func Open(path string) (in io.ReadCloser, name string, length int64, err error) {
	if path == "-" {
		return io.NopCloser(os.Stdin), "standard input", 0, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, path, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, path, 0, errors.Join(err, f.Close())
	}
	if info.Mode().IsRegular() {
		length = info.Size()
	}
	return f, path, length, nil
}

// Interruptible reads ahead in, until ctx ends: a pipe on which nothing comes would
// hold up the program for ever. Closing it ends the reading ahead, once in is closed.
func Interruptible(ctx context.Context, in io.Reader) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{in}, make([]byte, 1<<20))
		_ = w.CloseWithError(err) // nil is the end; it never fails
	}()
	context.AfterFunc(ctx, func() { _ = r.CloseWithError(ctx.Err()) })
	return r
}

// Choose lists the disks of those UUIDs, in whatever case, or all if there are none; and
// the UUIDs, in lower case, of which there is no disk.
func (vm VM) Choose(uuids []string) (disks []Disk, missing []string) {
	left := map[string]bool{}
	for _, uuid := range uuids {
		left[strings.ToLower(uuid)] = true
	}
	all := len(left) == 0
	for _, d := range vm.Disks {
		if all || left[d.UUID] {
			disks = append(disks, d)
			delete(left, d.UUID)
		}
	}
	for _, uuid := range uuids {
		if uuid = strings.ToLower(uuid); left[uuid] {
			missing = append(missing, uuid)
		}
	}
	return disks, missing
}

// MostBytes is the most that the data of disks can take: no more than the export is
// long, if that is known and it is not compressed; else what XenServer says that they took.
func MostBytes(disks []Disk, length int64) int64 {
	bytes := int64(0)
	for _, d := range disks {
		if length > 0 {
			bytes += d.Size
		} else {
			bytes += min(d.Size, d.Used)
		}
	}
	if length > 0 {
		bytes = min(bytes, length)
	}
	return bytes
}

// A Sink takes the data of one disk, in the order of its offsets.
type Sink interface {
	Write(off int64, b []byte) error
	Flush() error // ends it: all is durable
	Close() error
}

// Extract reads the export to its end. Open returns where a disk that begins is to go, or
// nil: then its data is verified only. Done is told of what was written, in bytes.
func (x *Reader) Extract(ctx context.Context, open func(Disk) (Sink, error), done func(id string, n int64)) (err error) {
	var disk *Disk
	var to Sink
	end := func(err error) error {
		if to == nil {
			return err
		}
		if err == nil {
			err = to.Flush()
		}
		err = errors.Join(err, to.Close())
		to = nil
		return err
	}
	defer func() { err = end(err) }()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		chunk, err := x.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if chunk.Disk != disk {
			if err := end(nil); err != nil {
				return err
			}
			if to, err = open(*chunk.Disk); err != nil {
				return err
			}
			disk = chunk.Disk
		}
		if to == nil {
			continue
		}
		if err := to.Write(chunk.Offset, chunk.Data); err != nil {
			return err
		}
		done(disk.ID, int64(len(chunk.Data)))
	}
}
