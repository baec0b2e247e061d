package images

import (
	"fmt"
	"io"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

// A Step is one thing that a command does, or has done.
type Step struct {
	Op     string `json:"op"`
	Path   string `json:"path"`
	Target string `json:"target,omitempty"`
	Bytes  *int64 `json:"bytes,omitempty"` // of data: at most, before; copied, after
	Note   string `json:"note,omitempty"`
}

// A Report is the JSON of all commands that write.
type Report struct {
	Command string `json:"command"`
	DryRun  bool   `json:"dry-run"`
	Steps   []Step `json:"steps"`
}

// Steps prints what was done, or what would be done.
func (r *Run) Steps(steps []Step) error {
	return r.StepsAs(steps, func(p Report) any { return p })
}

// StepsAs is Steps of a command whose JSON has more.
func (r *Run) StepsAs(steps []Step, with func(Report) any) error {
	report := Report{r.Command.Name, r.Bool("dry-run"), steps}
	if r.Bool("quiet") && r.String("output") == "human" {
		return nil
	}
	return r.Print(r.Context, with(report), func(w io.Writer) { stepsText(w, report) })
}

// An opText says how a step is told: before, and after.
type opText struct{ plan, done string }

func opTexts() map[string]opText {
	return map[string]opText{
		"create":  {"create", "created"},
		"convert": {"convert", "converted"},
		"finish":  {"finish", "finished"},
		"merge":   {"merge", "merged"},
		"pull":    {"pull", "pulled"},
		"rebase":  {"rebase", "rebased"},
		"amend":   {"amend", "amended"},
		"resize":  {"resize", "resized"},
		"relink":  {"relink", "relinked"},
		"delete":  {"delete", "deleted"},

		"snapshot-create": {"snapshot", "snapshot"},
		"snapshot-apply":  {"revert", "reverted"},
		"snapshot-delete": {"delete", "deleted"},

		"leave-out": {"leave out", "left out"},
	}
}

func stepsText(w io.Writer, report Report) {
	texts := opTexts()
	for _, s := range report.Steps {
		verb := texts[s.Op].done
		if report.DryRun {
			verb = texts[s.Op].plan
		}
		fmt.Fprintf(w, "%-9s  %s%s\n", verb, term.Printable(s.Path), stepRest(s, report.DryRun))
	}
	if report.DryRun {
		fmt.Fprintln(w, "nothing was changed (--dry-run)")
	}
}

func stepRest(s Step, plan bool) string {
	text := ""
	if s.Target != "" {
		text = " → " + term.Printable(s.Target)
	}
	var notes []string
	switch {
	case s.Bytes != nil && plan:
		notes = append(notes, "up to "+term.SizeText(*s.Bytes)+" to copy")
	case s.Bytes != nil:
		notes = append(notes, term.SizeText(*s.Bytes)+" copied")
	}
	if s.Note != "" {
		notes = append(notes, term.Printable(s.Note))
	}
	if len(notes) > 0 {
		text += "  (" + strings.Join(notes, "; ") + ")"
	}
	return text
}
