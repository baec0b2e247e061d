package host

import (
	"path/filepath"
	"regexp"
	"strings"
)

// Stamp is how a snapshot's name tells its time, in UTC.
const Stamp = "20060102T150405Z"

var overlayName = regexp.MustCompile(`^.+\.[A-Za-z0-9_.-]+-\d{8}T\d{6}Z(_\d+)?\.qcow2$`)

// IsOverlay tells whether a path is named as overlayPath names files.
func IsOverlay(path string) bool { return overlayName.MatchString(filepath.Base(path)) }

// SnapshotOf returns the name of the snapshot with which an overlay came into being, by
// its file name, or "": a stem may have dots, too, so it is what follows the last.
func SnapshotOf(path string) string {
	if !IsOverlay(path) {
		return ""
	}
	name := strings.TrimSuffix(filepath.Base(path), ".qcow2")
	return name[strings.LastIndex(name, ".")+1:]
}
