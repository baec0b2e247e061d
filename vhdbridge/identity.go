package vhdbridge

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// An Identity tells a node, as it is, from what it becomes: whoever changes it changes that.
type Identity struct {
	VDI      string    `json:"vdi"`
	UUID     string    `json:"uuid,omitempty"`   // of the image, where the format has one
	Parent   string    `json:"parent,omitempty"` // file name
	Size     int64     `json:"size"`             // virtual, bytes
	Length   int64     `json:"length"`           // of the file, bytes
	Modified time.Time `json:"modified"`
	Tables   string    `json:"tables"` // SHA-256 of footer, header and table of blocks
}

// headBytes is what is looked at of what has no table of blocks.
const headBytes = 64 << 10

// Identity reads metadata, no data. Known tells whether the node can be told by it later:
// devices have no times, and what was written to within the last moment could be written to
// again within the same one.
func (r *Repository) Identity(fsys vfs.FS, n *Node, now time.Time) (id Identity, known bool, err error) {
	f, err := fsys.Open(n.Path, false)
	if err != nil {
		return id, false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return id, false, err
	}
	id = Identity{VDI: n.VDI, UUID: n.uuid, Parent: n.Parent, Size: n.VirtualSize, Length: info.Size, Modified: info.ModTime.UTC()}
	head := min(info.Size, headBytes)
	if n.Format == formatVHD {
		i, err := vhd.ReadInfo(f, info.Size)
		if err != nil {
			return id, false, err
		}
		if i.Type != vhd.Fixed {
			head = min(info.Size, i.TableOffset+4*i.Entries)
		}
	}
	id.Tables, err = headSum(f, head, info.Size)
	return id, !info.IsBlock && !info.ModTime.IsZero() && now.Sub(info.ModTime) > vfs.Racy, err
}

// headSum is the sum of the beginning and of the last sector.
func headSum(f vfs.File, head, size int64) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, head)); err != nil {
		return "", err
	}
	tail := max(0, size-512)
	if _, err := io.Copy(h, io.NewSectionReader(f, tail, size-tail)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Sources tells what a layer is made of: a sum over the identities of the node and all below
// it. It is "" where one of them cannot be told from what it becomes.
func (r *Repository) Sources(fsys vfs.FS, g *Group, now time.Time) (string, error) {
	h := sha256.New()
	for l := g.Node.layer; l != nil; l = l.Parent {
		id, known, err := r.Identity(fsys, r.node(l), now)
		if err != nil || !known {
			return "", err
		}
		b, err := json.Marshal(id)
		if err != nil {
			return "", err
		}
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
