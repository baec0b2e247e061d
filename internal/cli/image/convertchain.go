package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/convert"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// convertChain makes one image a layer in dir, which is new or empty.
func convertChain(r *images.Run, nodes []chain.Node, dir string, format *formats.Format, o *images.Options) error {
	if len(nodes) > 1 && !format.Overlays {
		return term.Usagef("--chain: images of format %s cannot have a backing file", format.Name)
	}
	fresh, err := checkEmptyDir(dir)
	if err != nil {
		return err
	}
	all := chainConversions(nodes, dir, format, o)
	if r.Bool("dry-run") {
		return r.Convert(all)
	}
	release, err := convert.Hold(r.Store, nodes)
	if err != nil {
		return err
	}
	if fresh {
		if err := makeDir(dir); err != nil {
			return errors.Join(err, release())
		}
	}
	err = errors.Join(r.Convert(all), release())
	if err != nil && fresh {
		err = errors.Join(err, os.Remove(dir))
	}
	return err
}

func makeDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return vfs.SyncDir(filepath.Dir(dir))
}

// checkEmptyDir refuses what is neither an empty directory nor nothing.
func checkEmptyDir(dir string) (fresh bool, err error) {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	case err != nil:
		return false, &chain.RefusedError{Path: dir, Reason: "--chain wants a new or an empty directory: " + reasonOf(err)}
	case len(entries) > 0:
		return false, &chain.RefusedError{Path: dir, Reason: "--chain wants a new or an empty directory, and it is not empty"}
	}
	return false, nil
}

// reasonOf leaves out the path that an error of package os names.
func reasonOf(err error) string {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err.Error()
	}
	return err.Error()
}

func chainConversions(nodes []chain.Node, dir string, format *formats.Format, o *images.Options) []*convert.Conversion {
	names := chainNames(nodes, format.Extension)
	var all []*convert.Conversion
	for i, n := range nodes {
		c := &convert.Conversion{Nodes: nodes[:i+1], Own: true, Path: filepath.Join(dir, names[i]), Format: format, New: o.New, Maker: o.Maker, Room: o.Room}
		c.New.Size = n.Image.VirtualSize
		if format.NewID != nil {
			c.New.ID = format.NewID()
		}
		if i > 0 {
			c.New.Backing, c.New.BackingFormat = names[i-1], format.Name
			c.New.ParentID = all[i-1].New.ID
		}
		all = append(all, c)
	}
	return all
}

// imageExtensions are those that are replaced; what else follows a dot belongs
// to the name, as in web.snap1.
func imageExtensions() []string {
	known := []string{".qcow", ".img", ".vhdx", ".vpc", ".vmdk", ".vdi"}
	for _, f := range formats.All() {
		known = append(known, f.Extension)
	}
	return known
}

// chainNames gives each layer the name that it has, with the new extension; equal
// ones are numbered.
func chainNames(nodes []chain.Node, extension string) []string {
	var names []string
	for _, n := range nodes {
		stem := filepath.Base(n.Path)
		if ext := filepath.Ext(stem); slices.Contains(imageExtensions(), strings.ToLower(ext)) && ext != stem {
			stem = strings.TrimSuffix(stem, ext)
		}
		name := stem + extension
		for i := 2; slices.Contains(names, name); i++ {
			name = fmt.Sprintf("%s-%d%s", stem, i, extension)
		}
		names = append(names, name)
	}
	return names
}
