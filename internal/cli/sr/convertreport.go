package sr

import (
	"fmt"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/convert"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
	"github.com/virt-rotate/virt-rotate/vhdbridge/xva"
)

// convertReport is the JSON of sr convert.
type convertReport struct {
	images.Report
	LeftOut []vhdbridge.Spoiled `json:"left-out"` // nodes of which nothing was made
	Missing []missing           `json:"missing"`  // of an export that is damaged (--salvage)
	Kept    []string            `json:"kept"`     // images that need nothing (--again)
	Renamed []renamedImage      `json:"renamed"`  // images that have, or will have, another name (--again)
	Removed []string            `json:"removed"`  // images that go, or would, since others have what they have (--again)
	Named   []namedImage        `json:"named"`    // images of whose disks it is known what they are called
}

// renamedImage is an image that was converted before, under another name.
type renamedImage struct {
	Image string `json:"image"`
	Was   string `json:"was"`
}

// namedImage is an image with whose disk it is, or was before.
type namedImage struct {
	Image string `json:"image"`
	UUID  string `json:"uuid"` // of the VDI
	Known *known `json:"vdi"`

	text string
}

// namedImages are those among the images that were made of groups.
func namedImages(groups []vhdbridge.Group, made []*convert.Conversion) (named []namedImage) {
	nodes := map[string]*vhdbridge.Node{}
	for _, g := range groups {
		nodes[g.Node.Path] = g.Node
	}
	for _, c := range made {
		if n := nodes[c.Source().Path]; n != nil && n.Known != nil && !n.Hidden {
			named = append(named, namedImage{c.Path, n.VDI, knownJSON(n.Known), n.Called()})
		}
	}
	return named
}

// missing is a stretch of a disk that an export has lost: it reads as zeros.
type missing struct {
	Disk   string  `json:"disk"` // UUID
	Name   string  `json:"name"`
	Image  *string `json:"image" jsonschema:"nullable"` // none where nothing of the disk could be used
	Offset int64   `json:"offset"`
	Length int64   `json:"length"`
	Reason string  `json:"reason"`
}

// A converted is what came of a conversion.
type converted struct {
	steps         []images.Step
	left          []vhdbridge.Spoiled
	lost          []missing
	kept, removed []string
	renamed       []renamedImage
	named         []namedImage
}

// print prints what was made, and in JSON what was not.
func (c *converted) print(r *images.Run) error {
	steps := append([]images.Step{}, c.steps...)
	for i := range steps {
		if at := slices.IndexFunc(c.named, func(n namedImage) bool { return n.Image == steps[i].Target }); at >= 0 && c.named[at].text != "" {
			steps[i].Note += "; " + c.named[at].text
		}
	}
	return r.StepsAs(steps, func(p images.Report) any {
		return convertReport{p, append([]vhdbridge.Spoiled{}, c.left...), append([]missing{}, c.lost...),
			append([]string{}, c.kept...), append([]renamedImage{}, c.renamed...), append([]string{}, c.removed...), append([]namedImage{}, c.named...)}
	})
}

// missingOf is a hole as it is told.
func missingOf(h *xva.Hole, image string) missing {
	m := missing{Disk: h.Disk.UUID, Name: h.Disk.Name, Offset: h.Offset, Length: h.Length, Reason: h.Reason}
	if !h.Whole {
		m.Image = &image
	}
	if h.Chunk != "" {
		m.Reason = h.Chunk + ": " + m.Reason
	}
	return m
}

// tellMissing says what an export has lost.
func tellMissing(r *images.Run, lost []missing) {
	for _, m := range lost {
		text := fmt.Sprintf("disk %q (%s): bytes %d to %d (%s) are missing and read as zeros: %s", m.Name, m.Disk, m.Offset, m.Offset+m.Length-1, host.Bytes(m.Length), m.Reason)
		if m.Image == nil {
			text = fmt.Sprintf("disk %q (%s): no image was made: %s", m.Name, m.Disk, m.Reason)
		}
		fmt.Fprintf(r.Err, "virt-rotate: %s\n", term.Printable(text))
	}
}
