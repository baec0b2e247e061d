package sr

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/convert"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
)

func convertCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "convert", Usage: "make qcow2 chains of a repository, snapshots included, or images of an export (XVA)",
		ArgsUsage: "DIR|PV…|FILE.xva|-", OnUsageError: term.UsageError,
		Flags: append(append(images.WriteFlags(), domainFlags()...), namesFlag(),
			&cli.StringFlag{Name: "to", Usage: "directory for the new images, `DEST`; it is made if it is not there"},
			&cli.StringFlag{Name: "output-format", Aliases: []string{"O"}, Usage: "`FORMAT` of the new images: qcow2, or raw with --flatten or of an XVA", Value: "qcow2"},
			&cli.StringSliceFlag{Name: "vdi", Usage: "only the chain of `[TARGET=]UUID`; may be repeated; TARGET is for --define"},
			&cli.BoolFlag{Name: "flatten", Usage: "one image for each visible VDI, without chains"},
			&cli.BoolFlag{Name: "keep-all", Usage: "keep inner nodes that no VDI needs as layers of their own"},
			againFlag(),
			&cli.BoolFlag{Name: "salvage", Usage: "of a damaged XVA: make what is whole, and tell what is missing"},
			&cli.StringFlag{Name: "cluster-size", Usage: "of qcow2 images, `SIZE`; default: 128k with subclusters of 4k, which QEMU reads from 5.2 on; 64k of an XVA"}),
		Description: `Every node becomes a layer DEST/UUID.qcow2 with the same content, and the tree of
clones and snapshots stays. Names of backing files are relative: DEST can be moved.
Inner nodes that nobody needs are merged on the way. The repository is only read; it
must not be in use. A node that is damaged, an orphan or in use is left out with what
builds on it, and told; all else is made, and the exit status is 3. With --define all is
made or nothing. The memory of suspended guests is left out, too.

With --again what has not changed since images were made in DEST is left as it is, and of
what has changed only that is written: an outage is as short as what a guest has written
since. Images that somebody has written to are refused. Those that get other names, as by
--define after a run without, are renamed.

Data that a node has in single sectors becomes clusters: what such a cluster lacks is
taken from the layers below.

An XVA is what "xe vm-export" writes, compressed or not; - reads it from standard
input. It is read once and never unpacked; each disk becomes DEST/UUID.qcow2, and is told
with the VM, or the snapshot of it, that has it. Every checksum is verified: unless all
disks are there and right, nothing is left in DEST. With --salvage what is damaged reads
as zeros, and is told with its place; the exit status is 3 then.

` + domainHelp + `
   virt-rotate sr convert /srv/sr --to /var/lib/libvirt/images
   virt-rotate sr convert /srv/sr --names pool.xml --define web-1 --to /var/lib/libvirt/images/web-1
   virt-rotate sr convert /dev/sdb --to /var/lib/libvirt/images
   virt-rotate sr convert /srv/sr --again --to /var/lib/libvirt/images
   virt-rotate sr convert web.xva --to /var/lib/libvirt/images
   curl -u root 'https://xen1/export?uuid=UUID' | virt-rotate sr convert - --to /var/lib/libvirt/images
   virt-rotate sr convert /srv/sr --vdi 7d3f8d84-09ec-5d12-9466-d2053825910d --flatten -O raw --to /tmp/disks

` + exitHelp,
		Action: func(c *cli.Context) error {
			if isExport(c.Args().First()) {
				return images.Action(e, 1, 1, convertExport)(c)
			}
			return action(e, convertRepository)(c)
		},
	}
}

func convertRepository(r *images.Run, repo *vhdbridge.Repository) error {
	r.Hint = ": what was begun is removed, and the repository is as it was"
	format, o, err := repositoryTarget(r)
	if err == nil && r.Bool("salvage") {
		err = term.Usagef("--salvage is for exports (XVA): of a repository what is sound is made anyhow")
	}
	if err != nil {
		return err
	}
	if err := vhdbridge.ThisHost().Refuse(repo); err != nil {
		return err
	}
	if !repo.HasVDI() {
		return &chain.RefusedError{Path: repo.Dir, Reason: vhdbridge.BaseCopiesOnly + "; there is nothing to convert"}
	}
	if fresh := vhdbridge.ThisHost().Fresh(repo, r.Clock()); fresh != "" {
		fmt.Fprintf(r.Err, "virt-rotate: %s: %s; if a host has it attached, what is read of its disks is of several moments\n", term.Printable(repo.Dir), term.Printable(fresh))
	}
	names, _, err := namesOf(r)
	if err != nil {
		return err
	}
	d, err := domainOf(r, repo, names)
	if err != nil {
		return asVDIUsage(err)
	}
	groups, spoiled, err := repo.Groups(d.all, r.Bool("keep-all") || r.Bool("flatten"))
	if err == nil {
		groups, err = d.place(groups)
	}
	if err != nil {
		return errors.Join(asVDIUsage(err), d.close())
	}
	return errors.Join(convertGroups(r, repo, groups, spoiled, format, o, d), d.close())
}

// convertGroups makes the layers, and defines the domain on them that d is, if any.
func convertGroups(r *images.Run, repo *vhdbridge.Repository, groups []vhdbridge.Group, left []vhdbridge.Spoiled, format *formats.Format, o *images.Options, d *domain) error {
	all, err := conversionsOf(r, groups, format, o, d)
	if err != nil {
		return err
	}
	w, err := newWarm(r, repo, groups, left, all, d)
	if err != nil {
		return err
	}
	defer w.close()
	if err := makeLayers(r, w, d.wants()); err != nil {
		return err
	}
	var sound []*convert.Conversion
	for _, c := range all {
		if w.Kept(c) {
			continue
		}
		if c.Err == nil {
			sound = append(sound, c)
		} else {
			left = append(left, vhdbridge.Spoiled{Node: filepath.Base(c.Source().Path), Reason: c.Err.Error()})
		}
	}
	done := converted{steps: images.ConvertSteps(sound), left: left, kept: w.kept(), renamed: w.renamed, removed: w.removed(), named: namedImages(groups, sound)}
	w.tellKept(&done)
	if err := done.print(r); err != nil {
		return err
	}
	w.tellIdle(left)
	layersText(r, groups, all, d)
	if d.name != "" && !r.Bool("dry-run") {
		if err := w.Record.Define(d.name); err != nil {
			return err
		}
	}
	if err := d.define(); err != nil {
		return err
	}
	return tellLeft(r, len(sound), left)
}

// tellLeft says what was left out, and why.
func tellLeft(r *images.Run, made int, left []vhdbridge.Spoiled) error {
	wrong := 0
	for i := range left {
		if !left[i].Fine() {
			wrong++
		}
		fmt.Fprintf(r.Err, "virt-rotate: %s was left out: %s\n", term.Printable(left[i].Node), term.Printable(left[i].Reason))
	}
	switch {
	case wrong == 0:
		return nil
	case r.Bool("dry-run"):
		fmt.Fprintf(r.Err, "virt-rotate: %s can be made, %s left out for what is wrong with them\n", term.Plural(made, "image"), term.Plural(wrong, "node"))
	default:
		fmt.Fprintf(r.Err, "virt-rotate: %s made, %s left out for what is wrong with them\n", term.Plural(made, "image"), term.Plural(wrong, "node"))
	}
	return &term.ExitError{Code: term.ExitSome}
}

// repositoryTarget is the format of the new images and how they are made.
func repositoryTarget(r *images.Run) (*formats.Format, *images.Options, error) {
	format, err := formats.Named(r.String("output-format"))
	if err != nil {
		return nil, nil, err
	}
	switch {
	case r.String("to") == "":
		return nil, nil, term.Usagef("sr convert wants --to DEST, a directory")
	case format.Name == "raw" && !r.Bool("flatten"):
		return nil, nil, term.Usagef("-O raw wants --flatten: raw disks build on nothing")
	case format.Name != "raw" && format.Name != "qcow2":
		return nil, nil, term.Usagef("-O %s: want qcow2 or raw", format.Name)
	case r.Bool("flatten") && r.Bool("keep-all"):
		return nil, nil, term.Usagef("--flatten and --keep-all exclude each other")
	}
	o := images.DefaultOptions(format)
	if format.Name == "qcow2" {
		err = setClusters(r, o)
	} else if r.IsSet("cluster-size") {
		err = term.Usagef("--cluster-size: raw disks have no clusters")
	}
	return format, o, err
}

// setClusters are small enough not to inflate what was written by the sector.
func setClusters(r *images.Run, o *images.Options) error {
	text := r.String("cluster-size")
	if text == "" {
		return errors.Join(o.Maker.Set("cluster_size", "128k"), o.Maker.Set("extended_l2", "on"))
	}
	n, err := formats.ParseSize(text)
	if err != nil || n < 512 || n > 2<<20 || n&(n-1) != 0 {
		return term.Usagef("--cluster-size %s: want a power of two from 512 to 2M", text)
	}
	return o.Maker.Set("cluster_size", strconv.FormatInt(n, 10))
}

// conversionsOf is what is to be made of the groups.
func conversionsOf(r *images.Run, groups []vhdbridge.Group, format *formats.Format, o *images.Options, d *domain) ([]*convert.Conversion, error) {
	var all []*convert.Conversion
	names, of := map[string]bool{}, map[*vhdbridge.Node]*convert.Conversion{}
	for _, g := range groups {
		if r.Bool("flatten") && g.Node.Hidden {
			continue
		}
		name := d.Stem(g.Node) + format.Extension
		if names[name] {
			return nil, &chain.RefusedError{Path: g.Node.Path, Reason: "two nodes would become " + name}
		}
		names[name] = true
		c := &convert.Conversion{Path: filepath.Join(r.String("to"), name), Format: format, New: o.New, Maker: o.Maker}
		c.New.Size = g.Node.VirtualSize
		if c.Nodes, c.Err = r.Store.Chain(g.Node.Path, g.Node.Format); c.Err != nil {
			c.Nodes = []chain.Node{{Path: g.Node.Path}}
		}
		if !r.Bool("flatten") {
			c.Own, c.Layers = true, g.Layers
			if g.Parent != nil {
				c.On = of[g.Parent]
				c.New.Backing, c.New.BackingFormat = d.Stem(g.Parent)+format.Extension, format.Name
			}
		}
		of[g.Node] = c
		all = append(all, c)
	}
	return all, nil
}

// makeLayers makes all images that can be, while nobody can write to the nodes that they
// are made of. With all, one that cannot be made is an error, and none is left.
func makeLayers(r *images.Run, w *warm, whole bool) error {
	v, all := r.Converter(), w.rest
	err := v.MeasureSound(r.Ctx(), all)
	if err == nil && whole {
		err = firstError(all)
	}
	if err != nil {
		return err
	}
	return fillLayers(r, w, v, whole)
}

// fillLayers writes the images, and the directory for them. A dry run sees whether the nodes
// can be held.
func fillLayers(r *images.Run, w *warm, v *convert.Converter, whole bool) error {
	all, bytes := w.rest, int64(0)
	for _, c := range all {
		bytes += c.Bytes
	}
	release, err := convert.HoldSound(r.Ctx(), r.Store, all)
	if err == nil && whole {
		err = firstError(all)
	}
	if err == nil && !r.Bool("dry-run") && w.worth() {
		if err = os.MkdirAll(r.String("to"), 0o711); err == nil {
			err = w.convert(v)
		}
	}
	if err == nil && whole {
		err = firstError(all)
	}
	if err != nil && !w.renews() {
		r.Moved = 0 // what was changed is gone again
	}
	return errors.Join(noRoom(err, w, bytes), release())
}

// noRoom tells how much is needed, where the disk is full.
func noRoom(err error, w *warm, bytes int64) error {
	switch {
	case !errors.Is(err, syscall.ENOSPC):
		return err
	case w.renews():
		return fmt.Errorf("%w; what is to be written is about %s: make room, and the same command goes on", err, host.Bytes(bytes))
	}
	return fmt.Errorf("%w; the images take at least %s, and what was begun is removed: make room for that, or convert less at a time (--vdi, --vm)", err, host.Bytes(bytes))
}

// firstError is that of the first image that could not be made.
func firstError(all []*convert.Conversion) error {
	for _, c := range all {
		if c.Err != nil {
			return c.Err
		}
	}
	return nil
}

// layersText says what hangs together.
func layersText(r *images.Run, groups []vhdbridge.Group, all []*convert.Conversion, d *domain) {
	if r.Bool("quiet") || r.String("output") == "json" || r.Bool("flatten") || r.Bool("dry-run") {
		return
	}
	depth := map[*vhdbridge.Node]int{}
	for i, g := range groups {
		if all[i].Err != nil {
			continue
		}
		if g.Parent != nil {
			depth[g.Node] = depth[g.Parent] + 1
		}
		fmt.Fprintf(r.Out, "%s%s\n", strings.Repeat("    ", depth[g.Node]), term.Printable(d.shown(g.Node)))
	}
}
