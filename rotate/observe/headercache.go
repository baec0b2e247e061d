package observe

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A host can have thousands of images of which none is in a chain of a domain that
// is rotated. What their headers say is remembered from run to run, for files that
// have not changed since: by path, device, inode, size and time of the last write.

// headerCacheVersion is the layout of the file, that of chain.Image included, and what an
// Inspector reads of a file whose format is not given: what comes to that needs another
// version. Another one is not used.
const headerCacheVersion = 2

// A headerCache remembers what neighbours' headers say. Several goroutines may use it.
type headerCache struct {
	path string

	mu      sync.Mutex // guards all below
	known   map[headerKey]chain.Image
	seen    map[headerKey]bool // of this run
	changed bool
}

type headerKey struct {
	Path    string `json:"path"`
	ID      vfs.ID `json:"id"`
	Size    int64  `json:"size"`
	ModTime int64  `json:"mtime"` // nanoseconds since 1970
}

type headerRecord struct {
	headerKey
	Image chain.Image `json:"image"`
}

type headerFile struct {
	Version int            `json:"version"`
	Headers []headerRecord `json:"headers"`
}

// loadHeaders reads the cache. One that cannot be read is empty.
func loadHeaders(stateDir string) *headerCache {
	c := &headerCache{path: filepath.Join(stateDir, "headers.json"), known: map[headerKey]chain.Image{}, seen: map[headerKey]bool{}}
	data, err := os.ReadFile(c.path)
	var file headerFile
	if err != nil || json.Unmarshal(data, &file) != nil || file.Version != headerCacheVersion {
		return c
	}
	for _, r := range file.Headers {
		c.known[r.headerKey] = r.Image
	}
	return c
}

func keyOfFile(path string, info vfs.Info) headerKey {
	return headerKey{path, info.ID, info.Size, info.ModTime.UnixNano()}
}

// inspect is inspect, but for files that are known.
func (c *headerCache) inspect(path string, info vfs.Info, inspect chain.Inspector) (chain.Image, error) {
	key := keyOfFile(path, info)
	c.mu.Lock()
	image, known := c.known[key]
	c.seen[key] = true
	c.mu.Unlock()
	if known {
		return image, nil
	}
	image, err := inspect(path, "")
	if err == nil && time.Since(info.ModTime) > vfs.Racy {
		c.mu.Lock()
		c.known[key], c.changed = image, true
		c.mu.Unlock()
	}
	return image, err
}

// save writes what was seen, if anything of it is new.
func (c *headerCache) save() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	file := headerFile{Version: headerCacheVersion}
	for key, image := range c.known {
		if c.seen[key] {
			file.Headers = append(file.Headers, headerRecord{key, image})
		}
	}
	if !c.changed && len(file.Headers) == len(c.known) {
		return nil
	}
	data, err := json.Marshal(file)
	if err == nil {
		err = vfs.WriteFile(c.path, data, 0o600)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cache of image headers: %w", err)
	}
	return nil
}
