package image

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/formats"
)

func infoCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "info", Usage: "tell what an image says of itself; running guests do not matter",
		ArgsUsage: "FILE", OnUsageError: term.UsageError,
		Flags: append([]cli.Flag{
			term.OutputFlag(), images.FormatFlag(), images.AllowFlag(),
			&cli.BoolFlag{Name: "backing-chain", Usage: "also tell it of all images below"},
			&cli.BoolFlag{Name: "force-share", Aliases: []string{"U"}, Usage: "as in qemu-img; nothing is ever locked here"},
		}, images.SourceCompat()...),
		Description: `Only headers are read, and nothing is locked. JSON keys are those of qemu-img.

   virt-rotate image info --backing-chain --output=json web.qcow2

` + images.ExitHelp,
		Action: images.Action(e, 1, 1, func(r *images.Run) error {
			infos, err := infosOf(r)
			if err != nil {
				return err
			}
			var v any = infos
			if !r.Bool("backing-chain") {
				v = infos[0]
			}
			return r.PrintAsQemuImg(r.Context, v, func(w io.Writer) { infosText(w, infos) })
		}),
	}
}

// info is the JSON of image info; keys and their meaning are qemu-img's.
type info struct {
	Snapshots     []formats.Snapshot `json:"snapshots,omitempty"`
	BackingFormat string             `json:"backing-filename-format,omitempty"`
	VirtualSize   int64              `json:"virtual-size"`
	Filename      string             `json:"filename"`
	ClusterSize   int64              `json:"cluster-size,omitempty"`
	Format        string             `json:"format"`
	ActualSize    int64              `json:"actual-size"`
	Specific      *formats.Specific  `json:"format-specific,omitempty"`
	FullBacking   string             `json:"full-backing-filename,omitempty"`
	Backing       string             `json:"backing-filename,omitempty"`
	Encrypted     bool               `json:"encrypted,omitempty"`
	Dirty         bool               `json:"dirty-flag"`
}

// infosOf describes the image, and with --backing-chain all below it, in this order.
func infosOf(r *images.Run) ([]info, error) {
	name := r.Arg(0)
	nodes, err := infoNodes(r, name)
	if err != nil {
		return nil, err
	}
	infos := make([]info, 0, len(nodes))
	for i := len(nodes) - 1; i >= 0; i-- {
		info, err := describe(r, nodes[i], name)
		if err != nil {
			return nil, err
		}
		infos, name = append(infos, *info), info.FullBacking
	}
	return infos, nil
}

func infoNodes(r *images.Run, name string) ([]chain.Node, error) {
	if r.Bool("backing-chain") {
		return r.Chain(name, r.Format())
	}
	n, err := r.Store.Node(name, r.Format())
	return []chain.Node{n}, err
}

// describe describes one image; name is how it is to be called.
func describe(r *images.Run, n chain.Node, name string) (*info, error) {
	format, err := formats.Named(n.Image.Format)
	if err != nil {
		return nil, err
	}
	i := &info{
		Filename: name, Format: n.Image.Format, VirtualSize: n.Image.VirtualSize, ActualSize: n.Info.Allocated,
		Backing: n.Image.Backing, BackingFormat: n.Image.BackingFormat, FullBacking: nameBelow(name, n.Image.Backing),
		Encrypted: n.Image.Encrypted,
	}
	if n.Info.IsBlock {
		i.ActualSize = 0 // a device has no blocks of a file system
	}
	f, err := r.Store.FS.Open(n.Path, false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var d formats.Details
	err = formats.ReadSteady(f, func(size int64) (err error) {
		d, err = format.Details(f, size)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.Path, err)
	}
	i.ClusterSize, i.Dirty, i.Snapshots, i.Specific = d.ClusterSize, d.Dirty, d.Snapshots, d.Specific
	return i, nil
}

// nameBelow is what QEMU calls the backing file of an image that it calls name.
func nameBelow(name, backing string) string {
	if backing == "" || filepath.IsAbs(backing) {
		return backing
	}
	if _, plain := chain.PlainPath(name, backing); !plain {
		return backing
	}
	return name[:strings.LastIndexByte(name, '/')+1] + backing
}
