package guestfs

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// DetachDead unmounts what a View left at a directory whose process was killed: a mount that
// does not answer any more. Whatever else is there by now is left alone.
func DetachDead(dir string) error {
	source, there, err := mountedAt(dir)
	if err != nil || !there {
		return err
	}
	var st unix.Stat_t
	if errors.Is(unix.Stat(dir, &st), unix.ENOTCONN) || strings.HasPrefix(source, "/dev/loop") && isDead(source) {
		return Detach(dir)
	}
	return nil
}

// mountedAt finds what is mounted uppermost at a directory.
func mountedAt(dir string) (source string, there bool, err error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", false, err
	}
	octal := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`)
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		_, after, ok := strings.Cut(line, " - ")
		if of := strings.Fields(after); ok && len(of) > 1 && len(fields) > 4 && fields[4] == octal.Replace(dir) {
			source, there = of[1], true
		}
	}
	return source, there, nil
}

// pageSize is enough for all devices' sectors.
const pageSize = 4096

// isDead tells whether a device cannot be read any more; what is in memory of it does not count.
func isDead(device string) bool {
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	page, err := unix.Mmap(-1, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // direct reads go to whole pages
	if err != nil {
		return false
	}
	_, err = unix.Pread(fd, page, 0)
	return errors.Join(err, unix.Munmap(page)) != nil
}
