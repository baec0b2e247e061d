package initramfs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

// Types of entries, as in stat.
const (
	Dir  = 0o040000
	File = 0o100000
	Link = 0o120000 // its data is where it leads
)

// An Archive is an archive in the format "newc", which the kernel unpacks: see its
// Documentation/driver-api/early-userspace/buffer-format.rst.
type Archive struct {
	b     bytes.Buffer
	there map[string]bool
}

// Add appends an entry that is not there yet, after the directories above it. All belong to root.
func (a *Archive) Add(name string, mode int, data []byte) {
	a.parents(name)
	if !a.there[name] {
		a.there[name] = true
		a.append(name, mode, data)
	}
}

func (a *Archive) append(name string, mode int, data []byte) {
	const magic, owner, links, mtime, device, check = "070701", 0, 1, 0, 0, 0
	inode := a.b.Len() // any number, as long as they differ
	a.b.WriteString(magic)
	for _, field := range []int{inode, mode, owner, owner, links, mtime, len(data), device, device, device, device, len(name) + 1, check} {
		fmt.Fprintf(&a.b, "%08x", field)
	}
	a.b.WriteString(name + "\x00")
	a.pad()
	a.b.Write(data)
	a.pad()
}

// pad fills up to a multiple of 4 bytes.
func (a *Archive) pad() { a.b.Write(make([]byte, -a.b.Len()&3)) }

// Copy adds a file as a program.
func (a *Archive) Copy(name, path string) error {
	data, err := os.ReadFile(path)
	a.Add(name, File|0o755, data)
	return err
}

// parents adds the directories above name.
func (a *Archive) parents(name string) {
	if a.there == nil {
		a.there = map[string]bool{".": true}
	}
	if dir := filepath.Dir(name); !a.there[dir] {
		a.Add(dir, Dir|0o755, nil)
	}
}

// End returns the archive.
func (a *Archive) End() []byte {
	a.append("TRAILER!!!", 0, nil)
	return a.b.Bytes()
}
