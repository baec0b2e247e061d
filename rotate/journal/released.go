package journal

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// The overlays of snapshots that virt-rotate dropped are on record until they
// are merged. Without the record, a layer whose snapshot libvirt no longer
// lists is left alone: the list may have been lost, and the state be wanted.

// releasedRecord is one domain's record on disk.
type releasedRecord struct {
	Version int    `json:"version"`
	Domain  string `json:"domain"`
	UUID    string `json:"uuid"`
	Layers  []File `json:"layers"`
}

// releasedVersion is the layout of the records; another one releases nothing.
const releasedVersion = 1

func releasedPath(stateDir, uuid string) string {
	return filepath.Join(stateDir, "released", uuid+".json")
}

// OnRecord lists the UUIDs of the domains that have a record, be it of released layers or of
// what is lost: of the others there is nothing to read.
func OnRecord(stateDir string) (map[string]bool, error) {
	uuids := map[string]bool{}
	for _, dir := range []string{filepath.Dir(releasedPath(stateDir, "")), filepath.Dir(lostPath(stateDir, ""))} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			uuids[strings.TrimSuffix(e.Name(), ".json")] = true
		}
	}
	return uuids, nil
}

// LoadReleased reads the record of a domain. None, or one that cannot be
// read, releases nothing.
func LoadReleased(stateDir, uuid string) []File {
	data, err := os.ReadFile(releasedPath(stateDir, uuid))
	if err != nil {
		return nil
	}
	var r releasedRecord
	if json.Unmarshal(data, &r) != nil || r.Version != releasedVersion || r.UUID != uuid {
		return nil
	}
	return r.Layers
}

// SaveReleased puts the record on stable storage, or removes it when it is empty.
func SaveReleased(stateDir string, d *host.Domain, layers []File) error {
	path := releasedPath(stateDir, d.UUID)
	if len(layers) == 0 {
		if err := vfs.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	data, err := json.MarshalIndent(releasedRecord{releasedVersion, d.Name, d.UUID, layers}, "", "  ")
	if err != nil {
		return err
	}
	return vfs.WriteFile(path, append(data, '\n'), 0o600)
}
