package monitoring

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Root is where tools.sh unpacks them.
func Root() (string, error) {
	cache, err := os.UserCacheDir()
	return filepath.Join(cache, "virt-rotate", "monitoring"), err
}

// Tool returns the path of a program. One that is missing is an error, never a reason to skip.
func Tool(name string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	if path, err := exec.LookPath(filepath.Join(root, "usr", "bin", name)); err == nil {
		return path, nil
	}
	return "", fmt.Errorf("%s is not in %s: make tools unpacks it", name, root)
}
