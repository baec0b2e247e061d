package chain

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
)

// BackingPath resolves a backing name in the image at path as QEMU does: a relative
// one against the directory of the image, one in JSON by the file that it names. It
// is "" for a name that means no file that could be told. Names are not to be
// followed for that: see PlainPath.
func BackingPath(path, name string) string {
	if options, ok := strings.CutPrefix(name, "json:"); ok {
		name = jsonFile([]byte(options))
	} else if rest, ok := cutLocal(name); ok {
		name = rest
	} else if hasProtocol(name) {
		return ""
	}
	if name == "" {
		return ""
	}
	if !filepath.IsAbs(name) {
		name = filepath.Dir(path) + "/" + name
	}
	if slices.Contains(strings.Split(name, "/"), "..") {
		return name // only the kernel knows where a symbolic link leads up to
	}
	return filepath.Clean(name)
}

// cutLocal takes off a protocol of QEMU's that stands for files and devices of the host.
func cutLocal(name string) (string, bool) {
	for _, protocol := range []string{"file:", "host_device:"} {
		if rest, ok := strings.CutPrefix(name, protocol); ok {
			return rest, true
		}
	}
	return name, false
}

// IsRemote tells whether a backing name that means no file means storage
// elsewhere for certain. What is neither could be any file of this host.
func IsRemote(name string) bool {
	options, ok := strings.CutPrefix(name, "json:")
	if !ok {
		return hasProtocol(name)
	}
	driver := jsonDriver([]byte(options))
	return slices.Contains([]string{"ftp", "ftps", "gluster", "http", "https", "iscsi", "nbd", "nfs", "nvme", "rbd", "ssh"}, driver)
}

// jsonDriver returns the innermost driver of block device options.
func jsonDriver(options []byte) string {
	var o struct {
		Driver string
		Dotted string `json:"file.driver"`
		File   json.RawMessage
	}
	if json.Unmarshal(options, &o) != nil {
		return ""
	}
	if inner := jsonDriver(o.File); inner != "" {
		return inner
	}
	if o.Dotted != "" {
		return o.Dotted
	}
	return o.Driver
}

// hasProtocol tells whether QEMU takes a name for PROTOCOL:…, by its rule: a
// colon comes before any slash.
func hasProtocol(name string) bool {
	i := strings.IndexAny(name, ":/")
	return i >= 0 && name[i] == ':'
}

// jsonFile finds the file name in block device options, nested or dotted.
func jsonFile(options []byte) string {
	var o map[string]json.RawMessage
	if json.Unmarshal(options, &o) != nil {
		return ""
	}
	for _, key := range []string{"filename", "file.filename", "file.file.filename"} {
		var name string
		if json.Unmarshal(o[key], &name) == nil {
			return name
		}
	}
	if len(o["file"]) == 0 {
		return ""
	}
	return jsonFile(o["file"])
}
