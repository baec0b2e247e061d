package image

import (
	"fmt"
	"io"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/formats"
)

// infosText writes what qemu-img info writes.
func infosText(w io.Writer, infos []info) {
	for i := range infos {
		if i > 0 {
			fmt.Fprintln(w)
		}
		infoText(w, &infos[i])
	}
}

func infoText(w io.Writer, i *info) {
	fmt.Fprintf(w, "image: %s\nfile format: %s\n", term.Printable(i.Filename), i.Format)
	fmt.Fprintf(w, "virtual size: %s (%d bytes)\n", term.SizeText(i.VirtualSize), i.VirtualSize)
	fmt.Fprintf(w, "disk size: %s\n", term.SizeText(i.ActualSize))
	if i.Encrypted {
		fmt.Fprintln(w, "encrypted: yes")
	}
	if i.ClusterSize > 0 {
		fmt.Fprintf(w, "cluster_size: %d\n", i.ClusterSize)
	}
	if i.Dirty {
		fmt.Fprintln(w, "cleanly shut down: no")
	}
	if i.Backing != "" {
		fmt.Fprintf(w, "backing file: %s", term.Printable(i.Backing))
		if i.FullBacking != i.Backing {
			fmt.Fprintf(w, " (actual path: %s)", term.Printable(i.FullBacking))
		}
		fmt.Fprintln(w)
		if i.BackingFormat != "" {
			fmt.Fprintf(w, "backing file format: %s\n", term.Printable(i.BackingFormat))
		}
	}
	snapshotListText(w, i.Snapshots)
	if i.Specific != nil {
		fmt.Fprintln(w, "Format specific information:")
		fieldsText(w, i.Specific.Data.Fields())
	}
}

func snapshotListText(w io.Writer, list []formats.Snapshot) {
	if len(list) == 0 {
		return
	}
	const row = "%-9s %-16s %8s %19s %12s %10s\n"
	fmt.Fprintln(w, "Snapshot list:")
	fmt.Fprintf(w, row, "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT")
	for _, s := range list {
		icount := ""
		if s.Icount != nil {
			icount = fmt.Sprint(*s.Icount)
		}
		date := time.Unix(s.DateSec, 0).Format("2006-01-02 15:04:05")
		clock := fmt.Sprintf("%02d:%02d:%02d.%03d", s.ClockSec/3600, s.ClockSec/60%60, s.ClockSec%60, s.ClockNsec/1e6)
		fmt.Fprintf(w, row, term.Printable(s.ID), term.Printable(s.Name), term.SizeText(s.StateSize), date, clock, icount)
	}
}

func fieldsText(w io.Writer, fields []formats.Field) {
	for _, f := range fields {
		fmt.Fprintf(w, "%*s%s:", 4*f.Depth, "", f.Name)
		switch v := f.Value.(type) {
		case nil:
		case *bool:
			fmt.Fprint(w, " ", *v)
		default:
			fmt.Fprint(w, " ", term.Printable(fmt.Sprint(v)))
		}
		fmt.Fprintln(w)
	}
}
