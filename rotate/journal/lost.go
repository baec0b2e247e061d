package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// An image that a guest writes to holds no state, and neither does anything that builds
// on it. Somebody may have merged a whole chain into the image at its base (virsh
// blockcommit --active without --base), or run the template of linked clones: the layers
// of the snapshots are all there then, and show a mixture of old and new blocks.

// A Destroyed snapshot has a state that builds on an image which a guest has written to
// since.
type Destroyed struct {
	Snapshot string    `json:"snapshot"`
	Disk     string    `json:"disk"`
	Layer    string    `json:"layer"` // that held the state
	Base     string    `json:"base"`  // that is written to
	Writer   string    `json:"writer"`
	Since    time.Time `json:"since"` // about then; zero when that is not known
	// Sure tells that the base was written to. Else the domain would write to it if it
	// were started.
	Sure bool `json:"sure"`
}

// String says what has happened to the snapshot.
func (x *Destroyed) String() string {
	since := ""
	if !x.Since.IsZero() {
		since = " since about " + x.Since.Local().Format("2006-01-02 15:04:05")
	}
	if !x.Sure {
		return fmt.Sprintf("%s is what %s writes to, and the state of %s builds on it: a start of the guest would destroy that, if it has not done so yet", x.Base, x.Writer, x.Snapshot)
	}
	return fmt.Sprintf("the state of %s is lost%s: %s writes to %s, on which it builds", x.Snapshot, since, x.Writer, x.Base)
}

// That another guest wrote to the base of a domain's snapshots cannot be seen any more once
// it has stopped: what was seen is put on record, until the user gives the snapshots up. Of
// those that he has given up, images that virt-rotate did not make stay as files, and are
// on record as of no use: they build on an image, but need nothing of it.

// A LostRecord is one domain's record on disk.
type LostRecord struct {
	Version   int         `json:"version"`
	Domain    string      `json:"domain"`
	UUID      string      `json:"uuid"`
	Snapshots []Destroyed `json:"snapshots"`
	Useless   []File      `json:"useless"`
	// Tips are the active layers of disks that were taken out of the domain: what is in
	// them no snapshot ever had.
	Tips []Tip `json:"tips"`
}

// A Tip is the last layer of a disk that was taken out.
type Tip struct {
	File
	Disk string `json:"disk"`
}

// lostVersion is the layout of the records.
const lostVersion = 1

func lostPath(stateDir, uuid string) string { return filepath.Join(stateDir, "lost", uuid+".json") }

// LoadLost reads the record of a domain. None, or one that cannot be read, is empty.
func LoadLost(stateDir, uuid string) LostRecord {
	var r LostRecord
	data, err := os.ReadFile(lostPath(stateDir, uuid))
	if err != nil || json.Unmarshal(data, &r) != nil || r.Version != lostVersion || r.UUID != uuid {
		return LostRecord{}
	}
	return r
}

// SaveLost puts a domain's record on stable storage, or removes it when it is empty.
func SaveLost(stateDir string, d *host.Domain, r LostRecord) error {
	path := lostPath(stateDir, d.UUID)
	if len(r.Snapshots)+len(r.Useless)+len(r.Tips) == 0 {
		if err := vfs.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	r.Version, r.Domain, r.UUID = lostVersion, d.Name, d.UUID
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return vfs.WriteFile(path, append(data, '\n'), 0o600)
}
