package initramfs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

var libraryPath = regexp.MustCompile(`(?m)^\s+(?:\S+ => )?(/\S+) \(0x`)

// Libraries adds what a program of this machine's distribution loads: this machine's libraries, and
// before them those in dirs, which are found in /lib then.
func (a *Archive) Libraries(program string, dirs ...string) error {
	cmd := exec.Command("ldd", program)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "LD_LIBRARY_PATH="+strings.Join(dirs, ":"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("ldd %s: %w: %s", program, err, out)
	}
	if strings.Contains(string(out), "not found") {
		return fmt.Errorf("%s: libraries are missing:\n%s", program, out)
	}
	for _, m := range libraryPath.FindAllStringSubmatch(string(out), -1) {
		name := strings.TrimPrefix(m[1], "/")
		for _, dir := range dirs {
			if filepath.Dir(m[1]) == filepath.Clean(dir) {
				name = "lib/" + filepath.Base(m[1])
			}
		}
		if err := a.Copy(name, m[1]); err != nil {
			return err
		}
	}
	return nil
}
