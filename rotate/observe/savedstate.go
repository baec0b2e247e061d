package observe

import (
	"encoding/binary"
	"fmt"
	"html"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// A guest that was saved to a file (virsh save) goes on from its images as they were then.
// libvirt does not know of such files; those in directories of [storage] scan are looked
// at. Their layout is that of libvirt's qemu driver, src/qemu/qemu_saveimage.h: a header of
// this machine's byte order, then the domain's XML.
const (
	savedMagic  = "LibvirtQemudSave"
	savedLength = 20      // offset of the length of the XML, 32 bits
	savedHeader = 92      // bytes
	savedMost   = 4 << 20 // bytes of XML that are read
)

// savedState keeps the images that a saved state names. A volume is told by a domain that
// names it, too, as the saved one itself does as long as it is defined.
func (k *looker) savedState(w *World, path, format string) {
	if format != "" && format != "raw" || !k.scanned(path) || k.ignore.has(path) {
		return
	}
	text := savedXML(path)
	if w.isMemory(path) { // whoever goes on from it does so on the layers of its snapshot, wherever these are then
		return
	}
	for _, m := range savedPath.FindAllSubmatch(text, -1) {
		image := filepath.Clean(html.UnescapeString(string(m[1]) + string(m[2])))
		w.Forest.Add(w.Key(image), image).Keep("saved state " + path)
	}
	for _, source := range savedSource.FindAll(text, -1) {
		v := host.Volume{Pool: savedAttribute(savedPool, source), Name: savedAttribute(savedName, source)}
		if v == (host.Volume{}) {
			continue
		}
		images := w.filesOf(v)
		for _, image := range images {
			w.Forest.Add(w.Key(image), image).Keep("saved state " + path)
		}
		if len(images) == 0 {
			k.strange(w, Strange{Path: path, Reason: fmt.Sprintf("it is a saved state that names volume %s, whose file is not known", v), Anywhere: true})
		}
	}
}

// isMemory tells whether the file has the memory of a snapshot that is listed.
func (w *World) isMemory(path string) bool {
	return slices.ContainsFunc(w.Domains, func(d host.Domain) bool {
		return slices.ContainsFunc(d.Snapshots, func(s host.Snapshot) bool { return s.Memory == path })
	})
}

// filesOf returns the files that domains name as that volume.
func (w *World) filesOf(v host.Volume) []string {
	var found []string
	for i := range w.Domains {
		for path, volume := range w.Domains[i].Volumes {
			if volume.Pool == v.Pool && volume.Name == v.Name && !slices.Contains(found, path) {
				found = append(found, path)
			}
		}
	}
	slices.Sort(found)
	return found
}

var (
	savedPath   = regexp.MustCompile(`(?:file|dev)=(?:"(/[^"]+)"|'(/[^']+)')`)
	savedSource = regexp.MustCompile(`<source\s[^>]*>`)
	savedPool   = regexp.MustCompile(`\spool=(?:"([^"]*)"|'([^']*)')`)
	savedName   = regexp.MustCompile(`\svolume=(?:"([^"]*)"|'([^']*)')`)
)

func savedAttribute(named *regexp.Regexp, source []byte) string {
	m := named.FindSubmatch(source)
	if m == nil {
		return ""
	}
	return html.UnescapeString(string(m[1]) + string(m[2]))
}

// savedXML is the XML of the domain that was saved at path; none if that is no saved state.
func savedXML(path string) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	var head [savedHeader]byte
	if _, err := io.ReadFull(f, head[:]); err != nil || string(head[:len(savedMagic)]) != savedMagic {
		return nil
	}
	n := min(int64(binary.NativeEndian.Uint32(head[savedLength:])), savedMost)
	text, err := io.ReadAll(io.LimitReader(f, n))
	if err != nil {
		return nil
	}
	return text
}
