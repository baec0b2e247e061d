package guests

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

func statusText(w io.Writer, report *statusReport, now time.Time) {
	for i := range report.Domains {
		d := &report.Domains[i]
		fmt.Fprintf(w, "%s (policy %s, %s)\n", term.Printable(d.Name), d.Policy, d.State)
		verdictLines(w, d.Verdict)
		fmt.Fprintf(w, "  last run  %s\n", lastRunText(d.LastRun, now))
		if text := d.successText(now); text != "" {
			fmt.Fprintf(w, "  success   %s\n", text)
		}
		if text := d.trendText(); text != "" {
			fmt.Fprintf(w, "  trend     %s\n", text)
		}
		fmt.Fprintf(w, "  next      %s\n", nextText(&d.DomainStatus, now))
		if d.Waiting != "" {
			fmt.Fprintf(w, "  waiting   %s\n", d.Waiting)
		}
		if d.WentBack != "" {
			fmt.Fprintf(w, "  present   the guest went back to %s, and no snapshot was taken since\n", d.WentBack)
		}
		for j := range d.Disks {
			diskText(w, &d.Disks[j])
		}
		snapshotsText(w, &d.DomainStatus, now)
		for _, r := range d.Refused {
			fmt.Fprintf(w, "  refused   %s: %s\n", refusalPlace(r), r.Detail)
		}
		for _, r := range d.Skipped {
			fmt.Fprintf(w, "  skipped   %s: %s\n", refusalPlace(r), r.Detail)
		}
	}
}

func verdictLines(w io.Writer, v verdictStatus) {
	paint := newPainter(w)
	if len(v.Reasons) == 0 {
		fmt.Fprintf(w, "  verdict   %s\n", paint.verdict(v.Level, v.Level.String()))
	}
	for _, r := range v.Reasons {
		text := fmt.Sprintf("%s %s: %s", r.Level, r.Code, r.Detail)
		if r.Since != nil {
			text += " (since " + r.Since.Local().Format("2006-01-02 15:04") + ")"
		}
		fmt.Fprintf(w, "  verdict   %s\n", paint.verdict(r.Level, oneLine(text)))
	}
}

func diskText(w io.Writer, d *rotate.DiskStatus) {
	if len(d.Chain) == 0 {
		return
	}
	var allocated int64
	for _, l := range d.Chain {
		allocated += l.Allocated
	}
	active := d.Chain[len(d.Chain)-1]
	fmt.Fprintf(w, "  %-8s  %s, %s on disk, %s virtual, writes to %s\n", d.Target, term.Plural(len(d.Chain), "layer"),
		host.Bytes(allocated), host.Bytes(active.VirtualSize), filepath.Base(active.Path))
}

func snapshotsText(w io.Writer, d *rotate.DomainStatus, now time.Time) {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, s := range d.Snapshots {
		keep := "keep"
		switch {
		case s.Lost:
			keep = "lost"
		case !s.Ours:
			keep = "foreign"
		case s.Pinned:
			keep = "pinned"
		case !s.Keep:
			keep = "drop"
		}
		reason := s.Reason
		if s.Pinned {
			reason = "by hand"
		}
		if s.Note != "" {
			reason += ": " + oneLine(s.Note)
		}
		if s.Quiesced {
			reason += ", quiesced"
		}
		if s.LeftOut != "" {
			reason += ", without " + s.LeftOut
		}
		if s.Memory != nil {
			reason += ", " + memoryText(s.Memory)
		}
		fmt.Fprintf(tw, "  snapshot\t%s\t%s\t%s\t%s\n", s.Name, agoText(s.Time, now), keep, reason)
	}
	_ = tw.Flush() // errors of w are not told by the other lines either
}

// memoryText tells of the memory of a snapshot.
func memoryText(m *rotate.MemoryStatus) string {
	if m.Missing {
		return "its memory is gone"
	}
	return "with memory (" + host.Bytes(m.Allocated) + ")"
}

func lastRunText(r *rotate.LastRun, now time.Time) string {
	if r == nil {
		return "never"
	}
	text := agoText(r.Time, now) + ": " + r.Result
	var why []string
	if r.Error != "" {
		why = append(why, r.Error)
	}
	for _, f := range r.Refused {
		why = append(why, refusalPlace(f)+": "+f.Detail)
	}
	if len(why) > 0 {
		text += ": " + strings.Join(why, "; ")
	}
	return text
}

// nextText tells when the next snapshot is due.
func nextText(d *rotate.DomainStatus, now time.Time) string {
	if slices.ContainsFunc(d.Refused, func(r decide.Refusal) bool { return r.Code == host.CodeTwoPolicies }) {
		return "nothing while several policies match the domain"
	}
	if d.Due == nil && d.Policy == decide.Manual {
		return "no snapshots but those that a person takes"
	}
	return dueText(d.Due, now)
}

func dueText(due *time.Time, now time.Time) string {
	switch {
	case due == nil:
		return "no snapshots: keep is 0"
	case !due.After(now):
		return "snapshot due now"
	}
	return fmt.Sprintf("snapshot due in %s (%s)", duration(due.Sub(now)), due.Local().Format("2006-01-02 15:04"))
}
