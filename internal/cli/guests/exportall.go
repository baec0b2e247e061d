package guests

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/bundle"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/convert"
	"github.com/virt-rotate/virt-rotate/internal/firmware"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/libvirthost"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// A wholeExport is a guest on its way into a directory.
type wholeExport struct {
	*images.Run
	dir      string
	format   *formats.Format
	base     *bundle.Bundle // of an increment
	manifest bundle.Manifest
	sources  []*bundle.Source
	contents []bundle.Content
	release  func() error // of the layers, which nobody can write to until then
}

// exportAll writes a directory with the whole guest.
func exportAll(r *images.Run) (err error) {
	r.Hint = ": what was begun is removed, and the guest's images are as they were"
	x := &wholeExport{Run: r}
	if err := x.arguments(); err != nil {
		return err
	}
	if err := x.tellLeftovers(filepath.Dir(x.dir)); err != nil {
		return err
	}
	if err := session.With(r.Env, true, x.find); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.release()) }()
	return x.write()
}

// arguments looks at what was asked for, before anybody else is asked.
func (x *wholeExport) arguments() (err error) {
	switch {
	case x.IsSet("disk"):
		return term.Usagef("--all is all disks: it does not go with --disk")
	case x.String("o") == "-":
		return term.Usagef("--all writes a directory: -o - cannot have it; tar -c DIR writes one to a pipe")
	case x.IsSet("base") && x.IsSet("output-format") && x.String("output-format") != "qcow2":
		return term.Usagef("--base writes qcow2 images: they do not go with -O %s", x.String("output-format"))
	}
	if x.format, err = formats.Named(x.String("output-format")); err != nil {
		return err
	}
	if x.Bool("compress") && (!x.format.Packs || x.IsSet("base")) {
		return term.Usagef("--compress goes with whole qcow2 images")
	}
	if x.dir, err = filepath.Abs(x.String("o")); err != nil {
		return err
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(x.dir))
	if err != nil {
		return err
	}
	x.dir = filepath.Join(parent, filepath.Base(x.dir))
	if err := bundle.CheckFree(x.dir); err != nil {
		return err
	}
	return x.openBase(parent)
}

func (x *wholeExport) openBase(parent string) (err error) {
	if !x.IsSet("base") {
		return nil
	}
	if x.base, err = bundle.Open(x.String("base")); err != nil {
		return err
	}
	if filepath.Dir(x.base.Dir) != parent {
		return &chain.RefusedError{Path: x.base.Dir, Reason: "it has to be beside the new export, in " + parent + ": the new images name its images by that"}
	}
	return nil
}

// tellLeftovers names what exports have left in a directory that were killed. What is left of
// imports, the next import tells.
func (x *wholeExport) tellLeftovers(dir string) error {
	left, err := bundle.Leftovers(dir)
	for _, l := range left {
		if l.Domain == "" {
			tellRemoval(x.Env, l.Path, "", l.Path)
		}
	}
	return err
}

// find asks libvirt what there is to export, and holds the layers. What it says is asked for
// again once they are held: a merge may have begun, and ended, in between.
func (x *wholeExport) find(s *session.Session) error {
	if s.Host.Remote() {
		return &chain.RefusedError{Path: x.Arg(0), Reason: "the connection is to another host: run virt-rotate there"}
	}
	first, err := x.look(s)
	if err != nil {
		return err
	}
	rotate.Boundary("layers seen")
	if err := x.hold(s, first); err != nil {
		return err
	}
	again, err := x.look(s)
	if err == nil && !first.same(again) {
		err = &chain.RefusedError{Path: first.snapshot.Name, Reason: "its layers have changed meanwhile, by a merge: try again"}
	}
	if err == nil {
		err = x.take(s, again)
	}
	if err != nil {
		err = errors.Join(err, x.release())
	}
	return err
}

// hold keeps others from writing to the layers, and puts on record who reads them, so that merges wait.
func (x *wholeExport) hold(s *session.Session, l *exportLook) error {
	reading, err := beginReading(x.Run, s.Rotator.Observer.StateDir, l.nodes(), journal.Reader{Domain: l.domain.Name})
	if err != nil {
		return err
	}
	release, err := convert.Hold(x.Store, l.nodes())
	if err != nil {
		return errors.Join(err, reading.End())
	}
	x.release = func() error { return errors.Join(release(), reading.End()) }
	return nil
}

// take makes what was seen the sources and the manifest of the export.
func (x *wholeExport) take(s *session.Session, l *exportLook) error {
	tellMeant(x.Env, x.Arg(1), l.snapshot.Name)
	text, ofSnapshot, err := s.Host.StoredConfiguration(l.domain.Name, l.snapshot.Name)
	if err != nil {
		return err
	}
	if !ofSnapshot {
		fmt.Fprintf(x.Err, "virt-rotate: libvirt has no configuration on record with %s: the present one is exported\n", term.Printable(l.snapshot.Name))
	}
	x.manifest = bundle.Manifest{Domain: l.domain.Name, UUID: l.domain.UUID, Exported: x.Clock().UTC(),
		Snapshot: bundle.Snapshot{Name: l.snapshot.Name, Time: l.snapshot.Time.UTC(), Description: l.snapshot.Description}}
	if x.base != nil {
		if x.base.UUID != l.domain.UUID {
			return &chain.RefusedError{Path: x.base.Dir, Reason: "it is an export of another guest, " + x.base.Domain}
		}
		x.manifest.Base = &bundle.Base{Dir: filepath.Base(x.base.Dir), ManifestSHA256: x.base.ManifestSHA256}
	}
	for _, d := range l.disks {
		x.sources = append(x.sources, &bundle.Source{Target: d.target, Nodes: d.nodes, Was: d.was})
	}
	if x.manifest.LeftOut, err = disksLeftOut(text, l); err != nil {
		return err
	}
	if l.snapshot.Memory != "" {
		x.manifest.LeftOut = append(x.manifest.LeftOut, bundle.LeftOut{Target: bundle.LeftOutMemory, Reason: "it stays with the snapshot: a guest goes on from it under its own name, with its own disks only"})
	}
	if err := x.collect(text); err != nil {
		return err
	}
	return x.collectFirmware(l.snapshot)
}

// disksLeftOut tells of the disks in the configuration that the snapshot has no state of, and why.
func disksLeftOut(text string, l *exportLook) (left []bundle.LeftOut, err error) {
	disks, err := libvirthost.StoredDisks(text)
	if err != nil {
		return nil, err
	}
	for _, d := range disks {
		if slices.ContainsFunc(l.disks, func(s diskLook) bool { return s.target == d.Target }) {
			continue
		}
		reason := "the snapshot left it out"
		switch {
		case d.Device != "disk":
			reason = "it is a " + d.Device + ", whose medium is no part of the guest"
		case d.ReadOnly:
			reason = "it is read-only, and in no snapshot"
		}
		left = append(left, bundle.LeftOut{Target: d.Target, Reason: reason})
	}
	return left, nil
}

// collect is the one place where it is decided which files belong to the state beside the
// disks. Their kinds are those of bundle.Kinds.
func (x *wholeExport) collect(text string) error {
	files := map[string]host.Layer{}
	for _, s := range x.sources {
		name, format := x.image(s)
		files[s.Target] = host.Layer{Path: name, Kind: host.KindFile, Format: format}
	}
	text, err := libvirthost.ExportedXML(text, files)
	if err != nil {
		return err
	}
	x.contents = append(x.contents, bundle.Content{Kind: bundle.KindDomain, Name: "domain.xml", Mode: 0o600, UID: os.Geteuid(), GID: os.Getegid(), Text: []byte(text)})
	return nil
}

// collectFirmware takes the copy of UEFI variables and TPM state that the snapshot has, if it has one.
func (x *wholeExport) collectFirmware(s *host.Snapshot) error {
	path := s.FirmwareFile()
	if path == "" {
		return nil
	}
	if _, _, err := firmware.Load(path); err != nil {
		return fmt.Errorf("UEFI variables and TPM state: %w", err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	x.contents = append(x.contents, bundle.Content{Kind: bundle.KindFirmware, Name: "firmware.tar", Mode: 0o600, UID: os.Geteuid(), GID: os.Getegid(), Text: text})
	return nil
}

// image is the name and format of a disk's image in the directory.
func (x *wholeExport) image(s *bundle.Source) (name, format string) {
	return bundle.ImageName(s.Target, x.format, x.base)
}

// write makes the directory.
func (x *wholeExport) write() (err error) {
	e := &bundle.Exporter{Converter: x.Converter(), Format: x.format, Base: x.base}
	if err := e.Measure(x.Ctx(), x.sources, filepath.Dir(x.dir)); err != nil {
		return err
	}
	if x.Bool("dry-run") {
		return x.tell()
	}
	w, err := bundle.Begin(x.dir, x.manifest, rotate.Boundary)
	if err != nil {
		return err
	}
	if err = x.fill(e, w); err != nil {
		x.Moved = 0 // what was written is gone again
		return errors.Join(err, w.Discard())
	}
	return x.tell()
}

func (x *wholeExport) fill(e *bundle.Exporter, w *bundle.Writer) error {
	for _, c := range x.contents {
		if err := w.Add(c); err != nil {
			return err
		}
	}
	if err := e.Export(x.Ctx(), w, x.sources); err != nil {
		return err
	}
	return w.Finish()
}

// tell says what was, or would be, written, and what not.
func (x *wholeExport) tell() error {
	var steps []images.Step
	for _, s := range x.sources {
		name, _ := x.image(s)
		steps = append(steps, images.Step{Op: "convert", Path: s.Nodes[len(s.Nodes)-1].Path, Target: filepath.Join(x.dir, name), Bytes: &s.Bytes, Note: string(s.How)})
	}
	for _, c := range x.contents {
		steps = append(steps, images.Step{Op: "create", Path: filepath.Join(x.dir, c.Name)})
	}
	steps = append(steps, images.Step{Op: "create", Path: filepath.Join(x.dir, bundle.ManifestName)})
	for _, l := range x.manifest.LeftOut {
		steps = append(steps, images.Step{Op: "leave-out", Path: l.Target, Note: l.Reason})
	}
	return x.Steps(steps)
}
