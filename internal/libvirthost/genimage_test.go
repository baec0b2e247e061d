package libvirthost

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/qcow2"
)

// must is for what cannot fail in a temporary directory.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// overlayOf is the file name of an overlay that came with a snapshot of n o'clock.
func overlayOf(stem string, n int) string { return stem + "." + snapshotOf(n) + ".qcow2" }

func snapshotOf(n int) string { return fmt.Sprintf("p-20260101T%02d0000Z", n) }

// image puts something into the directory that is an image, or is not.
func (g *gen) image() {
	path := filepath.Join(g.dir, pick(g, fmt.Sprintf("i%d.qcow2", g.IntN(6)), fmt.Sprintf("i%d.raw", g.IntN(3)), overlayOf("d", g.IntN(4)), fmt.Sprintf("d%d.vmdk", g.IntN(3)),
		"with space.qcow2", "a,b.qcow2", "new\nline.qcow2", "v1.qcow2", "sub/x.qcow2"))
	must(os.MkdirAll(filepath.Dir(path), 0o755))
	if _, err := os.Lstat(path); err == nil {
		return
	}
	g.put(path)
	g.images = append(g.images, path)
}

func (g *gen) put(path string) {
	switch n := g.IntN(20); {
	case n < 11:
		g.putQcow2(path, g.backingName(), pick(g, "qcow2", "raw", "vmdk", "odd"))
	case n == 11:
		must(os.Mkdir(path, 0o755))
	case n == 12:
		must(syscall.Mkfifo(path, 0o600))
	case n == 13:
		must(os.Symlink(pick(g, filepath.Join(g.dir, "gone0.qcow2"), path, "i0.qcow2", g.dir), path))
	case n == 14 && len(g.images) > 0:
		_ = os.Link(pick(g, g.images...), path) // of a directory there is none
	default:
		must(os.WriteFile(path, []byte(g.content()), 0o600))
	}
}

// content is the beginning of a file of another kind.
func (g *gen) content() string {
	return pick(g, "", "x", string(make([]byte, 4096)), "KDMV\x01\x00\x00\x00"+string(make([]byte, 1016)), "# Disk DescriptorFile\nparentFileNameHint=\"x.vmdk\"\n",
		"conectix"+string(make([]byte, 504)), "cxsparse", "<<< Oracle VM VirtualBox Disk Image >>>\n"+string(make([]byte, 400)), "LUKS\xba\xbe\x00\x01", "QFI\xfb", "QFI\xfb\x00\x00\x00\x03\x00",
		"QFI\xfb\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\xff\xff"+string(make([]byte, 100)), "QED\x00"+string(make([]byte, 100)), "vhdxfile", "WithoutFreeSpace")
}

// backingName is what the header of an image names.
func (g *gen) backingName() string {
	switch n := g.IntN(20); {
	case n < 6:
		return ""
	case n < 16:
		return g.path()
	case n < 18:
		name := ""
		g.quietly(func() { name = filepath.Base(g.path()) }) // a layer's name in another place is a doubt
		return name
	}
	return pick(g, "json:{\"file\":{\"driver\":\"nbd\"}}", "nbd://h/x", "rbd:a/b", "../x", "json:{", "file:x", "no\x00ul", g.oddPath())
}

// putQcow2 writes an empty qcow2 image, or a part of one.
func (g *gen) putQcow2(path, backing, format string) {
	if len(backing) > 1000 {
		backing = backing[:1000]
	}
	writeQcow2(path, backing, format)
	if g.in100(10) {
		info, err := os.Stat(path)
		must(err)
		must(os.Truncate(path, g.Int64N(info.Size()+1)))
	}
}

func writeQcow2(path, backing, format string) {
	f, err := vfs.OS().Create(path, 0o600)
	must(err)
	if backing == "" {
		format = ""
	}
	must(qcow2.Create(f, qcow2.CreateOptions{Size: 1 << 20, ClusterSize: 4096, Backing: backing, BackingFormat: format}))
	must(f.Close())
}

// chain puts a sound chain of so many overlays of ours into a directory and returns its paths, base first.
func putChain(dir, stem string, hours ...int) []string {
	layers := []string{filepath.Join(dir, stem+".qcow2")}
	writeQcow2(layers[0], "", "")
	for _, n := range hours {
		below := layers[len(layers)-1]
		layers = append(layers, filepath.Join(dir, overlayOf(stem, n)))
		writeQcow2(layers[len(layers)-1], below, "qcow2")
	}
	return layers
}

// soundDisk is the XML of a disk on that chain.
func soundDisk(target, pool string, layers []string) string {
	top := len(layers) - 1
	backing := "<backingStore/>"
	for i, path := range layers[:top] {
		kind, source := soundSource(pool, i, path)
		backing = "<backingStore" + kind + "><format type='qcow2'/>" + source + backing + "</backingStore>"
	}
	kind, source := soundSource(pool, top, layers[top])
	return "<disk" + kind + " device='disk'><driver name='qemu' type='qcow2'/>" + source + backing + "<target" + attr("dev", target) + " bus='virtio'/></disk>"
}

// soundSource names the base as a volume of the pool, if one is given, and all else as files.
func soundSource(pool string, i int, path string) (kind, source string) {
	if pool != "" && i == 0 {
		return attr("type", "volume"), "<source" + attr("pool", pool) + attr("volume", filepath.Base(path)) + "/>"
	}
	return attr("type", "file"), "<source" + attr("file", path) + "/>"
}

// soundSnapshots is the XML of the snapshots of a domain on that chain.
func soundSnapshots(domain, target, pool string, layers []string, hours ...int) []string {
	var all []string
	parent := ""
	for i, n := range hours {
		text := element("name", snapshotOf(n)) + element("description", "Taken by virt-rotate (policy p)") + element("creationTime", fmt.Sprint(1767225600+n*3600))
		if parent != "" {
			text += element("parent", element("name", parent))
		}
		stored := "<domain type='kvm'>" + element("name", escaped(domain)) + element("devices", soundDisk(target, pool, layers[:i+1])) + "</domain>"
		text += "<memory snapshot='no'/>" + element("disks", "<disk"+attr("name", target)+" snapshot='external' type='file'><driver type='qcow2'/><source"+attr("file", layers[i+1])+"/></disk>") +
			stored + inactive(stored)
		all, parent = append(all, element("domainsnapshot", text)), snapshotOf(n)
	}
	return all
}
