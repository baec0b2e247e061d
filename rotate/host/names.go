package host

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

// Stamp is how a snapshot's name tells its time, in UTC.
const Stamp = "20060102T150405Z"

var overlayName = regexp.MustCompile(`^.+\.[A-Za-z0-9_.-]+-\d{8}T\d{6}Z(_\d+)?\.qcow2$`)

// IsOverlay tells whether a path is named as overlayPath names files.
func IsOverlay(path string) bool { return overlayName.MatchString(filepath.Base(path)) }

// revertedName is how libvirt calls the files that its own revert makes: the name of the
// layer below, without its extension, and the seconds since 1970.
var revertedName = regexp.MustCompile(`^(.+)\.\d{9,11}$`)

// IsReverted tells whether a path is named as the files of libvirt's own revert are, since
// 9.9. Its snapshots without a name give the same names: nothing may be done with a file for
// its name alone.
func IsReverted(path string) bool { return revertedName.MatchString(filepath.Base(path)) }

// IsMade tells whether a path is named as the files that snapshots of ours, or reverts to
// them, make.
func IsMade(path string) bool { return IsOverlay(path) || IsReverted(path) }

// SnapshotOf returns the name of the snapshot with which an overlay came into being, by
// its file name, or "": a stem may have dots, too, so it is what follows the last.
func SnapshotOf(path string) string {
	if !IsOverlay(path) {
		return ""
	}
	name := strings.TrimSuffix(filepath.Base(path), ".qcow2")
	return name[strings.LastIndex(name, ".")+1:]
}

var (
	generationOf = regexp.MustCompile(`^(.+\d{8}T\d{6}Z)(?:_\d+)?\.qcow2$`)
	generations  = regexp.MustCompile(`\.gen\d+$`)
)

// Stem returns the disk's own file name, without its extension, from before
// any overlay of ours.
func Stem(d *Disk) string {
	own := d.Chain[0]
	for _, l := range d.Chain {
		if !IsOverlay(beforeRevert(l.Path)) {
			own = l
		}
	}
	name := filepath.Base(beforeRevert(own.Path))
	for IsOverlay(name) { // a pull has left nothing below the overlays
		name = name[:strings.LastIndex(strings.TrimSuffix(name, ".qcow2"), ".")] + ".qcow2"
	}
	if s := generations.ReplaceAllString(strings.TrimSuffix(name, filepath.Ext(name)), ""); s != "" {
		return s
	}
	return name
}

// beforeRevert returns the name, as of a qcow2 image, that libvirt's revert has taken for that
// of its own file; any other path stays as it is.
func beforeRevert(path string) string {
	dir, name := filepath.Split(path)
	if m := revertedName.FindStringSubmatch(name); m != nil {
		return dir + m[1] + ".qcow2"
	}
	return path
}

// Generation returns the n-th path for what replaces the file at path: that of an overlay
// of ours with a number, as two snapshots of one second have them; of another file, its name
// with .gen1, .gen2 … before the extension.
func Generation(path string, n int) string {
	dir, name := filepath.Split(path)
	ext := filepath.Ext(name)
	stem, format := generations.ReplaceAllString(strings.TrimSuffix(name, ext), ""), "%s.gen%d%s"
	if IsOverlay(name) {
		stem, format = generationOf.FindStringSubmatch(name)[1], "%s_%d%s"
	}
	return dir + fmt.Sprintf(format, stem, n, ext)
}
