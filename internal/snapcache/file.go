package snapcache

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"golang.org/x/sys/unix"
)

// magic begins the first line, which has the layout's version and the digest of all that follows, JSON.
const magic = "virt-rotate snapshots 1 "

// mostBytes is how large the file may be.
const mostBytes = 64 << 20

// errNotOurs says that a file cannot be used.
var errNotOurs = errors.New("no cache of this virt-rotate and this libvirt")

// A content is the JSON of the file.
type content[T any] struct {
	Life    string               `json:"life"`
	Domains map[string]record[T] `json:"domains"`
}

// load reads the file of that life.
func load[T any](path, life string) (map[string]record[T], error) {
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	line, body, _ := bytes.Cut(data, []byte("\n"))
	if string(line) != firstLine(body) {
		return nil, errNotOurs
	}
	var c content[T]
	if err := json.Unmarshal(body, &c); err != nil {
		return nil, err
	}
	if c.Life != life || c.Domains == nil || len(c.Domains) > mostDomains {
		return nil, errNotOurs
	}
	return c.Domains, nil
}

func firstLine(body []byte) string { return fmt.Sprintf("%s%x", magic, sha256.Sum256(body)) }

// read reads a file of this user's own, to which nobody else can write.
func read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o022 != 0 || int(st.Uid) != os.Geteuid() || st.Size > mostBytes {
		return nil, errNotOurs
	}
	return io.ReadAll(io.LimitReader(f, mostBytes))
}

// store writes the file, whole or not at all. A directory that is not there is not made: nothing has been run here.
func store[T any](path, life string, domains map[string]record[T]) error {
	body, err := json.Marshal(content[T]{life, domains})
	if err != nil {
		return err
	}
	data := append([]byte(firstLine(body)+"\n"), body...)
	if len(data) > mostBytes {
		return errNotOurs
	}
	return vfs.WriteFile(path, data, 0o600)
}
