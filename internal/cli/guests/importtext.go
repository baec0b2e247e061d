package guests

import (
	"fmt"
	"io"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/libvirthost"
)

// An importReport is the JSON of import.
type importReport struct {
	DryRun  bool                `json:"dry-run"`
	Dir     string              `json:"dir"`
	Domain  string              `json:"domain"`
	UUID    string              `json:"uuid"`
	NewUUID bool                `json:"new-uuid"` // it is not the one in the export
	Disks   []importDisk        `json:"disks"`
	Touches []libvirthost.Touch `json:"touches,omitempty"` // what the configuration has of this host
	Lacks   []string            `json:"lacks,omitempty"`   // what this host has not got of it
	Notes   []string            `json:"notes,omitempty"`   // what is other than in the export
}

type importDisk struct {
	Target string `json:"target"`
	Path   string `json:"path"`
	Format string `json:"format"`
	Bytes  *int64 `json:"bytes"` // of data: at most, before; copied, after
}

// tell says what was, or would be, done; what would be refused is the error of a dry run.
func (i *importer) tell() error {
	if !i.Bool("quiet") || i.String("output") == "json" {
		if err := i.Print(i.Context, i.report, i.report.text); err != nil {
			return err
		}
	}
	if i.report.DryRun {
		return i.refusal()
	}
	return nil
}

func (r *importReport) text(w io.Writer) {
	verb := map[bool]string{true: "define", false: "defined"}[r.DryRun]
	for _, d := range r.Disks {
		size := term.SizeText(*d.Bytes) + " copied"
		if r.DryRun {
			size = "up to " + term.SizeText(*d.Bytes) + " to copy"
		}
		fmt.Fprintf(w, "%-9s  %s → %s  (%s)\n", map[bool]string{true: "place", false: "placed"}[r.DryRun], term.Printable(d.Target), term.Printable(d.Path), size)
	}
	fmt.Fprintf(w, "%-9s  %s  (UUID %s)\n", verb, term.Printable(r.Domain), r.UUID)
	for _, t := range r.Touches {
		wanted := ""
		if t.Consent {
			wanted = "  (wants --trust)"
		}
		fmt.Fprintf(w, "touches    %s: %s%s\n", term.Printable(t.Where), term.Printable(t.What), wanted)
	}
	for _, l := range r.Lacks {
		fmt.Fprintf(w, "lacks      %s\n", term.Printable(l))
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note       %s\n", term.Printable(n))
	}
	if r.DryRun {
		fmt.Fprintln(w, "nothing was changed (--dry-run)")
	}
}

func touchText(touches []libvirthost.Touch) string {
	var all []string
	for _, t := range touches {
		all = append(all, t.Where+": "+t.What)
	}
	return joined(all)
}

func joined(all []string) string { return strings.Join(all, ", ") }
