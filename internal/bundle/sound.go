package bundle

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/virt-rotate/virt-rotate/internal/formats"
)

// Bounds of what is believed of a manifest.
const (
	maxManifest = 1 << 20 // bytes
	maxFile     = 1 << 30 // bytes of a file that is no disk
	maxDisks    = 256
	maxFiles    = 64
	maxText     = 64 << 10 // bytes of a description
	maxSize     = 1 << 60  // bytes of a disk
	maxChain    = 100      // exports that build on each other
)

var (
	plainName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}$`)
	hexSum    = regexp.MustCompile(`^[0-9a-f]{64}$`)
	uuidText  = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	modeText  = regexp.MustCompile(`^0[0-7]{3}$`)
	ownerText = regexp.MustCompile(`^[0-9]{1,10}:[0-9]{1,10}$`)
	dirName   = regexp.MustCompile(`^[^/\x00-\x1f\x7f]{1,255}$`)
)

// IsPlain tells whether a name can be that of a file of an export.
func IsPlain(name string) bool { return plainName.MatchString(name) }

// IsDomainName tells whether a guest can be called so.
func IsDomainName(name string) bool {
	return name != "" && len(name) <= 200 && !strings.ContainsRune(name, '/') && strings.IndexFunc(name, func(c rune) bool { return !unicode.IsPrint(c) }) < 0
}

// IsStem tells whether the names of images can begin with that of a guest: they are no hidden
// files then, and no options of anybody's.
func IsStem(name string) bool {
	return IsDomainName(name) && !strings.ContainsRune(".- ", rune(name[0]))
}

// sound is an error if the manifest is not one that this program could have written.
func (m *Manifest) sound() error {
	if err := m.soundHead(); err != nil {
		return err
	}
	if len(m.Disks) == 0 || len(m.Disks) > maxDisks || len(m.LeftOut) > maxDisks || len(m.Files) > maxFiles {
		return fmt.Errorf("%d disks, %d left out, %d files: want 1 to %d, and no more than %d and %d", len(m.Disks), len(m.LeftOut), len(m.Files), maxDisks, maxDisks, maxFiles)
	}
	return m.soundParts()
}

// soundHead looks at what is known before anything is exported.
func (m *Manifest) soundHead() error {
	switch {
	case m.Version != Version:
		return fmt.Errorf("version %d: this virt-rotate reads version %d", m.Version, Version)
	case !IsDomainName(m.Domain):
		return fmt.Errorf("domain %q: that is no name of a guest", m.Domain)
	case !uuidText.MatchString(m.UUID):
		return fmt.Errorf("uuid %q: that is no UUID", m.UUID)
	case len(m.Snapshot.Name) > maxText || len(m.Snapshot.Description) > maxText:
		return fmt.Errorf("snapshot: its name or description has more than %d bytes", maxText)
	case m.Base != nil && !isNeighbour(m.Base.Dir):
		return fmt.Errorf("base %q: want the name of a directory beside this one", m.Base.Dir)
	case m.Base != nil && !hexSum.MatchString(m.Base.ManifestSHA256):
		return fmt.Errorf("base: manifest-sha256 %q: that is no SHA-256", m.Base.ManifestSHA256)
	}
	return nil
}

func isNeighbour(name string) bool { return dirName.MatchString(name) && name != "." && name != ".." }

func (m *Manifest) soundParts() error {
	names, targets := []string{ManifestName, SumsName}, []string{}
	for i := range m.Disks {
		d := &m.Disks[i]
		if err := d.sound(m.Base != nil); err != nil {
			return fmt.Errorf("disk %q: %w", d.Target, err)
		}
		if slices.Contains(targets, d.Target) || slices.Contains(names, d.File) {
			return fmt.Errorf("disk %q, file %q: it is there twice", d.Target, d.File)
		}
		names, targets = append(names, d.File), append(targets, d.Target)
	}
	for i := range m.Files {
		f := &m.Files[i]
		if err := f.sound(); err != nil {
			return fmt.Errorf("file %q: %w", f.File, err)
		}
		if slices.Contains(names, f.File) {
			return fmt.Errorf("file %q: it is there twice", f.File)
		}
		names = append(names, f.File)
	}
	if m.Kind(KindDomain) == nil {
		return fmt.Errorf("there is no file of kind %q", KindDomain)
	}
	return nil
}

func (d *Disk) sound(increment bool) error {
	_, err := formats.Named(d.Format)
	switch {
	case !IsPlain(d.Target) || !IsPlain(d.File):
		return fmt.Errorf("target %q, file %q: want plain names", d.Target, d.File)
	case err != nil:
		return err
	case d.VirtualSize < 0 || d.VirtualSize > maxSize || d.Size < 0 || d.Size > maxSize:
		return fmt.Errorf("virtual size %d, size %d: that is no size", d.VirtualSize, d.Size)
	case !hexSum.MatchString(d.ContentSHA256) || !hexSum.MatchString(d.SHA256):
		return fmt.Errorf("content-sha256 %q, sha256 %q: that is no SHA-256", d.ContentSHA256, d.SHA256)
	case d.Backing != "" && !increment:
		return fmt.Errorf("backing file %q: there is no earlier export", d.Backing)
	}
	return nil
}

func (f *File) sound() error {
	switch {
	case !slices.Contains(Kinds(), f.Kind):
		return fmt.Errorf("files of kind %q are not known: a newer virt-rotate has written it", f.Kind)
	case !IsPlain(f.File):
		return fmt.Errorf("want a plain name")
	case !modeText.MatchString(f.Mode) || !ownerText.MatchString(f.Owner):
		return fmt.Errorf("mode %q, owner %q: want octal, and numbers", f.Mode, f.Owner)
	case f.Size < 0 || f.Size > maxFile || !hexSum.MatchString(f.SHA256):
		return fmt.Errorf("size %d, sha256 %q: that is none", f.Size, f.SHA256)
	}
	return nil
}
