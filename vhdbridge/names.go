package vhdbridge

import (
	"path/filepath"
	"strings"
)

// Formats of nodes.
const (
	formatVHD   = "vhd"
	formatRaw   = "raw"
	formatQcow2 = "qcow2"
)

// oldPrefix is what the collector puts before the name of a leaf whose parent has
// taken its place.
const oldPrefix = "OLD_"

// fileFormats are the extensions in a repository of files.
var fileFormats = map[string]string{".vhd": formatVHD, ".raw": formatRaw, ".qcow2": formatQcow2}

// volumePrefixes are those of logical volumes, or of files that were copied from such.
var volumePrefixes = map[string]string{"VHD-": formatVHD, "LV-": formatRaw, "QCOW2-": formatQcow2}

// A nodeName is the file name of a node, taken apart.
type nodeName struct {
	file   string // as it is in the directory
	vdi    string // without prefix and extension, and without OLD_
	format string
	old    bool // the name begins with OLD_
	prefix string
	ext    string
}

// parseName tells whether a file is a node, by its name alone.
func parseName(file string) (nodeName, bool) {
	n := nodeName{file: file, vdi: file}
	for prefix, format := range volumePrefixes {
		if rest, ok := strings.CutPrefix(file, prefix); ok && rest != "" {
			n.vdi, n.format, n.prefix = rest, format, prefix
		}
	}
	if n.format == "" {
		n.ext = filepath.Ext(file)
		n.format, n.vdi = fileFormats[strings.ToLower(n.ext)], strings.TrimSuffix(file, n.ext)
	}
	if n.format == "" || n.vdi == "" || strings.HasPrefix(file, ".") {
		return nodeName{}, false
	}
	if rest, ok := strings.CutPrefix(n.vdi, oldPrefix); ok && rest != "" {
		n.vdi, n.old = rest, true
	}
	return n, true
}

// with is the name that a node of this kind has for another VDI.
func (n nodeName) with(vdi string) string { return n.prefix + vdi + n.ext }

// oldName is the name of the VDI's node while another takes its place.
func (n nodeName) oldName() string { return n.with(oldPrefix + n.vdi) }

// journalKinds are the collector's journals: what was under way.
var journalKinds = []string{"coalesce", "relink", "leaf"}

// A Journal says that the collector was interrupted.
type Journal struct {
	Kind string `json:"kind"` // coalesce, relink or leaf
	VDI  string `json:"vdi"`
	// Parent is the VDI into which a leaf was to be merged.
	Parent string `json:"parent,omitempty"`
	file   string
}

// parseJournal tells whether a file is a journal, by its name alone. The names of
// logical volumes end with the value.
func parseJournal(file string) (Journal, bool) {
	for _, kind := range journalKinds {
		rest, ok := strings.CutPrefix(file, kind+"_")
		if !ok || rest == "" {
			continue
		}
		vdi, value, _ := strings.Cut(rest, "_")
		j := Journal{Kind: kind, VDI: vdi, file: file}
		if kind == "leaf" {
			j.Parent = value
		}
		return j, true
	}
	return Journal{}, false
}
