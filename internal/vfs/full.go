package vfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
)

// Full returns p with all that the engine asks of a file: p itself if it has that, else
// a File that does with what p has. If p has them, these methods of File are used:
// Close, Path (or Name), Punch, Reserve. Zeros are written in place of holes, copies go
// through memory, and there are no locks: they are up to whoever opened p.
func Full(p Plain) File {
	switch p := p.(type) {
	case File:
		return p
	case nil:
		return &plainFile{p: readOnly{nothing{}, 0}}
	}
	return &plainFile{p: p}
}

// nothing is where there is no file.
type nothing struct{}

func (nothing) ReadAt([]byte, int64) (int, error) { return 0, errors.New("there is no file") }

// FullReader is Full for what is only read, and has size bytes.
func FullReader(r io.ReaderAt, size int64) File {
	if f, ok := r.(File); ok {
		return f
	}
	return &plainFile{p: readOnly{r, max(size, 0)}}
}

// OfOS returns f, a regular file or a block device, with all that the operating system
// can do with it. It is a *KindError if f is anything else. Closing it closes f.
func OfOS(f *os.File) (File, error) {
	fi, err := f.Stat()
	if err == nil {
		err = checkKind(f.Name(), fi)
	}
	if err != nil {
		return nil, err
	}
	return &osFile{f: f, dev: infoOf(fi).ID.Dev, block: isBlock(fi), sys: linux()}, nil
}

// IsReadOnly tells of a File of FullReader that it cannot be written to. Others are
// asked by writing.
func IsReadOnly(f File) bool {
	p, ok := f.(*plainFile)
	if !ok {
		return false
	}
	_, ok = p.p.(readOnly)
	return ok
}

// errReadOnly is what writing to a File of FullReader ends in.
var errReadOnly = errors.New("it was opened for reading only")

// readOnly is a Plain file of what can only be read.
type readOnly struct {
	io.ReaderAt
	size int64
}

func (r readOnly) Size() (int64, error) { return r.size, nil }

func (readOnly) WriteAt([]byte, int64) (int, error) { return 0, errReadOnly }

func (readOnly) Truncate(int64) error { return errReadOnly }

func (readOnly) Sync() error { return errReadOnly }

// plainFile is a File that does with what a Plain one has. The engine copies side by
// side, and a Plain file need not stand that: it sees one call at a time.
type plainFile struct {
	mu sync.Mutex // held through each call
	p  Plain
}

// has returns what is asked for upgrades: the reader, if there is no more than that.
func (f *plainFile) has() any {
	if r, ok := f.p.(readOnly); ok {
		return r.ReaderAt
	}
	return f.p
}

func (f *plainFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.p.ReadAt(p, off)
}

func (f *plainFile) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.p.WriteAt(p, off)
}

func (f *plainFile) Size() (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.p.Size()
}

func (f *plainFile) Truncate(size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.p.Truncate(size)
}

func (f *plainFile) Sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.p.Sync()
}

// Path is for messages.
func (f *plainFile) Path() string {
	switch p := f.has().(type) {
	case interface{ Path() string }:
		return p.Path()
	case interface{ Name() string }:
		return p.Name()
	}
	return "image"
}

func (f *plainFile) Close() error {
	if c, ok := f.has().(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// Stat knows nothing but the size: there is no identity.
func (f *plainFile) Stat() (Info, error) {
	size, err := f.Size()
	return Info{Size: size, Allocated: size, Links: 1, Mode: 0o600}, err
}

// Reserve promises nothing where p does not: writing tells when space runs out.
func (f *plainFile) Reserve(off, n int64) error {
	if err := checkRange(f.Path(), off, n); err != nil {
		return err
	}
	if p, ok := f.has().(interface{ Reserve(off, n int64) error }); ok {
		f.mu.Lock()
		defer f.mu.Unlock()
		return p.Reserve(off, n)
	}
	return nil
}

func (f *plainFile) Punch(off, n int64) error {
	if err := checkRange(f.Path(), off, n); err != nil {
		return err
	}
	if p, ok := f.has().(interface{ Punch(off, n int64) error }); ok {
		f.mu.Lock()
		defer f.mu.Unlock()
		return p.Punch(off, n)
	}
	size, err := f.Size()
	if err != nil {
		return err
	}
	return f.writeZeros(off, min(off+n, size))
}

func (f *plainFile) writeZeros(off, end int64) error {
	zeros := make([]byte, max(0, min(end-off, zeroPiece)))
	for ; off < end; off += zeroPiece {
		if _, err := f.WriteAt(zeros[:min(end-off, zeroPiece)], off); err != nil {
			return err
		}
	}
	return nil
}

// Copy goes through memory.
func (f *plainFile) Copy(off int64, src File, from, n int64) (shared bool, err error) {
	if err := errors.Join(checkRange(f.Path(), off, n), checkRange(src.Path(), from, n)); err != nil {
		return false, err
	}
	if src == File(f) && off < from+n && from < off+n {
		return false, fmt.Errorf("%s: copy of %d bytes at %d to %d: ranges overlap: %w", f.Path(), n, from, off, syscall.EINVAL)
	}
	buf := copyBuffers.Get().(*[copyBuffer]byte)
	defer copyBuffers.Put(buf)
	for n > 0 {
		b := buf[:min(n, copyBuffer)]
		got, err := src.ReadAt(b, from)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		clear(b[got:]) // beyond the end of the source
		if _, err := f.WriteAt(b, off); err != nil {
			return false, err
		}
		off, from, n = off+int64(len(b)), from+int64(len(b)), n-int64(len(b))
	}
	return false, nil
}

// NextData takes all of the file for data.
func (f *plainFile) NextData(off int64) (start, end int64, err error) {
	if err := checkRange(f.Path(), off, 0); err != nil {
		return 0, 0, err
	}
	size, err := f.Size()
	return min(off, size), size, err
}

// Lock does nothing: locks are up to whoever opened the file.
func (f *plainFile) Lock(LockMode) error { return nil }
