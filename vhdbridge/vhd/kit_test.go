package vhd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd/vhdtest"
)

const dir = "/images"

// A lab is a file system in memory with VHDs.
type lab struct {
	t   testing.TB
	mem *vfstest.Mem
}

func newLab(t testing.TB) *lab { return &lab{t, vfstest.New()} }

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) path(name string) string { return dir + "/" + name }

// create makes an empty image.
func (l *lab) create(name string, o CreateOptions) {
	l.t.Helper()
	f, err := l.mem.Create(l.path(name), 0o600)
	l.must(err)
	l.must(errors.Join(Create(f, o), f.Close(), l.mem.SyncDir(dir)))
}

func (l *lab) file(name string) vfs.File {
	l.t.Helper()
	f, err := l.mem.Open(l.path(name), true)
	l.must(err)
	return f
}

// open opens an image for writing.
func (l *lab) open(name string) *Image {
	l.t.Helper()
	s, err := Open(l.file(name))
	l.must(err)
	return s.(*Image)
}

// bytes is the file as it is.
func (l *lab) bytes(name string) []byte {
	l.t.Helper()
	b, err := l.mem.ReadFile(l.path(name))
	l.must(err)
	return b
}

// patch overwrites bytes of the file.
func (l *lab) patch(name string, off int64, b []byte) {
	l.t.Helper()
	f := l.file(name)
	_, err := f.WriteAt(b, off)
	l.must(errors.Join(err, f.Sync(), f.Close()))
}

// put writes data at off of the disk, and zeros if there is none.
func (l *lab) put(name string, off, n int64, data byte) {
	l.t.Helper()
	i := l.open(name)
	l.must(i.Prepare())
	if data == 0 {
		l.must(i.Zero(off, n))
	} else {
		placed, err := i.Place([]chain.Piece{{Offset: off, Length: n}})
		l.must(err)
		for _, p := range placed {
			_, err := i.f.WriteAt(bytes.Repeat([]byte{data}, int(p.Length)), p.Host)
			l.must(err)
		}
	}
	l.must(errors.Join(i.Flush(), i.Close()))
}

// parsed is the file as the other reader sees it, which checks more.
func (l *lab) parsed(name string) *vhdtest.Disk {
	l.t.Helper()
	d, err := vhdtest.Parse(l.bytes(name))
	l.must(err)
	l.must(d.Consistent())
	return d
}

func (l *lab) check(name string, repair Repair) CheckResult {
	l.t.Helper()
	f := l.file(name)
	defer f.Close()
	r, err := Check(f, repair)
	l.must(err)
	return r
}

// resum makes a footer or header valid again.
func resum(b []byte, field int) []byte {
	binary.BigEndian.PutUint32(b[field:], checksum(b, field))
	return b
}

// refooted changes both footers.
func (l *lab) refooted(name string, change func(b []byte)) {
	l.t.Helper()
	b := l.bytes(name)
	foot := b[len(b)-footerLen:]
	change(foot)
	resum(foot, offChecksum)
	l.patch(name, 0, foot)
	l.patch(name, int64(len(b)-footerLen), foot)
}

// reheaded changes the header.
func (l *lab) reheaded(name string, change func(b []byte)) {
	l.t.Helper()
	head := l.bytes(name)[headerStart:][:headerLen]
	change(head)
	l.patch(name, headerStart, resum(head, offHeaderChecksum))
}
