package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// Records that other hosts read are files of JSON named by the guest's UUID, one directory for each kind. What is read
// back may be another's word: it is bounded, never followed by a link, and checked by its kind.

// writeRecord puts a record of a guest on stable storage, in a directory that is made if need be. most is in bytes.
func writeRecord(path, uuid string, record any, most int) error {
	if !isUUID(uuid) {
		return fmt.Errorf("%q is not a UUID of libvirt", uuid)
	}
	dir := filepath.Dir(path)
	if err := os.Mkdir(dir, 0o700); err == nil {
		if err := vfs.SyncDir(filepath.Dir(dir)); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	data, err := json.MarshalIndent(record, "", "  ")
	if err != nil {
		return err
	}
	if len(data) >= most {
		return fmt.Errorf("%s: %d bytes are too much to be put on record", path, len(data))
	}
	return vfs.WriteFile(path, append(data, '\n'), 0o600)
}

// readRecord reads one; fs.ErrNotExist for none.
func readRecord(path, uuid string, record any, most int64) error {
	if !isUUID(uuid) {
		return fs.ErrNotExist
	}
	f, err := vfs.OpenLockFile(path, false, false)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := f.Content(most)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, record); err != nil {
		return fmt.Errorf("%s: not as virt-rotate writes it: %w", path, err)
	}
	return nil
}

// wrongTexts says what cannot be the metadata of snapshots.
func wrongTexts(all []host.SnapshotText) string {
	if len(all) > mostMoved {
		return "too many snapshots"
	}
	for i := range all {
		s := &all[i]
		if s.Name == "" || strings.ContainsAny(s.Name, "/\n\x00") || s.XML == "" {
			return fmt.Sprintf("snapshot %d has no name, or one that libvirt does not allow, or no metadata", i+1)
		}
		for _, path := range s.Files {
			if !filepath.IsAbs(path) {
				return fmt.Sprintf("snapshot %q names the file %q, which is no absolute path", s.Name, path)
			}
		}
	}
	return ""
}

// isUUID tells whether the text can be the name of a file here: libvirt's UUIDs are of hexadecimal digits
// and dashes. Letters are let through for the sake of tests, whose hosts are not libvirt's.
func isUUID(text string) bool {
	return text != "" && len(text) <= 64 && strings.Trim(text, "0123456789abcdefghijklmnopqrstuvwxyz-") == ""
}
