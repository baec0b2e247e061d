package chain

import (
	"path/filepath"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// MappedVolume takes a name of the device mapper apart: group and logical volume with a
// dash in between, and the dashes of each doubled.
func MappedVolume(name string) (group, volume string, ok bool) {
	const dash = "\x00" // no name has it
	parts := strings.Split(strings.ReplaceAll(name, "--", dash), "-")
	if len(parts) != 2 || !isVolumeName(parts[0]) || !isVolumeName(parts[1]) {
		return "", "", false
	}
	return strings.ReplaceAll(parts[0], dash, "-"), strings.ReplaceAll(parts[1], dash, "-"), true
}

func isVolumeName(name string) bool { return name != "" && name != "." && name != ".." }

// mappedName is the inverse of MappedVolume.
func mappedName(group, volume string) string {
	return strings.ReplaceAll(group, "-", "--") + "-" + strings.ReplaceAll(volume, "-", "--")
}

// LocateVolumes finds logical volumes, or copies of such beside the image, that a header
// names otherwise than they are called now: /dev/mapper/VG-LV for /dev/VG/LV, or the other
// way round. What is where the name says is left alone. It is a Store.Locate.
func LocateVolumes(fsys vfs.FS) func(path, name string) string {
	there := func(path string) bool {
		_, err := fsys.Stat(path)
		return err == nil
	}
	return func(path, name string) string {
		file, plain := PlainPath(path, name)
		if !plain || there(file) {
			return name
		}
		for _, other := range volumeNames(filepath.Dir(path), file) {
			if there(other) {
				return other
			}
		}
		return name
	}
}

// volumeNames are what the volume that file means may be called as well, the copies in dir
// first.
func volumeNames(dir, file string) []string {
	base := filepath.Base(file)
	if group, volume, ok := MappedVolume(base); ok {
		return []string{filepath.Join(dir, volume), filepath.Join("/dev", group, volume), filepath.Join("/dev/mapper", base)}
	}
	group := filepath.Base(filepath.Dir(file))
	mapped := mappedName(group, base)
	if filepath.Dir(filepath.Dir(file)) != "/dev" {
		return nil
	}
	return []string{filepath.Join(dir, base), filepath.Join(dir, mapped), filepath.Join("/dev/mapper", mapped)}
}

// backingPath is BackingPath of the name that is followed in the place of that in the
// header.
func (s *Store) backingPath(path, name string) string {
	if s.Locate != nil {
		name = s.Locate(path, name)
	}
	return BackingPath(path, name)
}
