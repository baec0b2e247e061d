package observe

import (
	"encoding/binary"
	"html"
	"io"
	"os"
	"path/filepath"
	"regexp"
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

// savedState keeps the images that a saved state names.
func (k *looker) savedState(w *World, path, format string) {
	if format != "" && format != "raw" || !k.scanned(path) || k.ignore.has(path) {
		return
	}
	for _, image := range savedImages(path) {
		w.Forest.Add(w.Key(image), image).Keep("saved state " + path)
	}
}

var savedPath = regexp.MustCompile(`(?:file|dev)=(?:"(/[^"]+)"|'(/[^']+)')`)

// savedImages lists the files and devices that the state saved at path names; none if it
// is no saved state.
func savedImages(path string) []string {
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
	var images []string
	for _, m := range savedPath.FindAllSubmatch(text, -1) {
		images = append(images, filepath.Clean(html.UnescapeString(string(m[1])+string(m[2]))))
	}
	return images
}
