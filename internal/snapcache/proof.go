package snapcache

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"golang.org/x/sys/unix"
)

// A Proof is what libvirt's files of one domain's snapshots looked like at one moment. The zero one proves nothing.
type Proof struct {
	digest [sha256.Size]byte
	old    bool // the last change was long enough before
}

// proves tells whether there is something that a later look can be compared with.
func (p Proof) proves() bool { return p.old && p.digest != [sha256.Size]byte{} }

// look is the proof of the files DOMAIN/SNAPSHOT.xml below dir; all of them have to be there.
func look(dir *os.File, domain string, snapshots []string, now time.Time) Proof {
	if !plainName(domain) || len(snapshots) == 0 {
		return Proof{}
	}
	fd, err := unix.Openat(int(dir.Fd()), domain, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return Proof{}
	}
	defer unix.Close(fd) //nolint:errcheck // it was only looked at
	h := newIdentities()
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return Proof{}
	}
	h.add(domain, &st)
	for _, name := range slices.Sorted(slices.Values(snapshots)) {
		if !plainName(name) || unix.Fstatat(fd, name+".xml", &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			return Proof{}
		}
		h.add(name, &st)
	}
	return Proof{[sha256.Size]byte(h.Sum(nil)), now.UnixNano()-h.newest > int64(vfs.Racy)}
}

// plainName tells whether a name is that of a file in a directory, and of no other place.
func plainName(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

// identities are those of files and directories, as one digest.
type identities struct {
	hash.Hash
	newest int64 // the last change of any, nanoseconds since 1970
}

func newIdentities() *identities { return &identities{Hash: sha256.New()} }

func (h *identities) add(name string, st *unix.Stat_t) {
	changed, written := st.Ctim.Nano(), st.Mtim.Nano()
	h.newest = max(h.newest, changed, written)
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(name)))
	b = append(b, name...)
	for _, n := range []uint64{st.Dev, st.Ino, uint64(st.Size), uint64(changed), uint64(written)} { //nolint:gosec // only compared
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	_, _ = h.Write(b) // a hash's never fails
}
