package xapi

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"path/filepath"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// mode is for the owner alone: who may read a disk may read all that is on it.
const mode = 0o600

// A part is a VHD that is being written, under a temporary name.
type part struct {
	dir, path string
	f         vfs.File // nil once it is closed
}

func (p *Puller) newPart() (*part, error) {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	path := filepath.Join(p.Dir, strings.Replace(partPattern, "*", hex.EncodeToString(b[:]), 1))
	f, err := vfs.OS().Create(path, mode)
	return &part{p.Dir, path, f}, err
}

// finish makes the VHD durable and gives it its name, in the place of what had that; after
// an error, also an earlier one, it is removed.
func (p *part) finish(err error, name string) error {
	if err == nil && p.f != nil {
		err = p.f.Sync()
	}
	err = errors.Join(err, p.close())
	if err == nil {
		err = vfs.OS().Rename(p.path, filepath.Join(p.dir, name))
	}
	if err != nil {
		return errors.Join(err, vfs.Remove(p.path))
	}
	return vfs.SyncDir(p.dir)
}

func (p *part) close() error {
	if p.f == nil {
		return nil
	}
	f := p.f
	p.f = nil
	return f.Close()
}

// change opens the VHD to be changed by do, and closes it.
func (p *part) change(open func(f vfs.File) (vhd.Target, error), do func(i *vhd.Image) error) error {
	t, err := open(p.f)
	if err != nil {
		return err
	}
	i, ok := t.(*vhd.Image)
	if !ok {
		return errors.New("it is a fixed disk")
	}
	err = do(i)
	p.f = nil // the image has closed it
	return errors.Join(err, i.Close())
}

// baseUUID is the UUID of the base copy of a snapshot: a name-based one (RFC 9562, version 8).
func baseUUID(snapshot string) string {
	h := sha256.Sum256([]byte("virt-rotate base copy of " + snapshot))
	var u vhd.UUID
	copy(u[:], h[:])
	u[6], u[8] = u[6]&0x0F|0x80, u[8]&0x3F|0x80
	return u.String()
}
