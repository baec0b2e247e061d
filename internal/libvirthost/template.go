package libvirthost

import "github.com/virt-rotate/virt-rotate/rotate/host"

// A Template is what a new domain is to be like.
type Template struct {
	XML   string
	Plain bool // nobody has said what it is to be like
}

// TemplateOf is text, if that is not ""; else the configuration that the domain has; else
// that of a plain one with places for so many disks. A domain that is there is looked at
// in any case: its disks must be replaceable, or that is a *ReplaceError.
func (h *Host) TemplateOf(name, text string, disks int) (Template, error) {
	own, err := h.Configuration(name)
	switch {
	case err != nil:
		return Template{}, &ReplaceError{err}
	case text != "":
		return Template{XML: text}, nil
	case own != "":
		return Template{XML: own}, nil
	}
	text, err = h.PlainDomain(name, disks)
	return Template{text, true}, err
}

// A ReplaceError means that a domain is not one whose disks can be replaced.
type ReplaceError struct{ Err error }

func (e *ReplaceError) Error() string { return e.Err.Error() }

func (e *ReplaceError) Unwrap() error { return e.Err }

// Rehearse tells whether the template has a place for a disk of each of the targets, as
// DomainXML does, and which disks of its own are left as they are.
func (t Template) Rehearse(name string, targets []string) (left []string, err error) {
	var disks []NewDisk
	for _, target := range targets {
		disks = append(disks, NewDisk{Target: target, Active: host.Layer{Path: "/", Kind: host.KindFile, Format: "qcow2"}})
	}
	_, _, left, err = DomainXML(t.XML, name, disks)
	return left, err
}

// FileChain is a chain of qcow2 files at paths, base first.
func FileChain(paths []string) (layers []host.Layer) {
	for _, path := range paths {
		layers = append(layers, host.Layer{Path: path, Kind: host.KindFile, Format: "qcow2"})
	}
	return layers
}
