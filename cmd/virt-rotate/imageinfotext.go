package main

import (
	"fmt"
	"io"
	"time"
)

// infosText writes what qemu-img info writes.
func infosText(w io.Writer, infos []imageInfo) {
	for i := range infos {
		if i > 0 {
			fmt.Fprintln(w)
		}
		infoText(w, &infos[i])
	}
}

func infoText(w io.Writer, i *imageInfo) {
	fmt.Fprintf(w, "image: %s\nfile format: %s\n", printable(i.Filename), i.Format)
	fmt.Fprintf(w, "virtual size: %s (%d bytes)\n", sizeText(i.VirtualSize), i.VirtualSize)
	fmt.Fprintf(w, "disk size: %s\n", sizeText(i.ActualSize))
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
		fmt.Fprintf(w, "backing file: %s", printable(i.Backing))
		if i.FullBacking != i.Backing {
			fmt.Fprintf(w, " (actual path: %s)", printable(i.FullBacking))
		}
		fmt.Fprintln(w)
		if i.BackingFormat != "" {
			fmt.Fprintf(w, "backing file format: %s\n", printable(i.BackingFormat))
		}
	}
	snapshotListText(w, i.Snapshots)
	if i.Specific != nil {
		fmt.Fprintln(w, "Format specific information:")
		switch data := i.Specific.Data.(type) {
		case *infoQcow2:
			qcow2Text(w, data)
		case *infoVHD:
			vhdText(w, data)
		}
	}
}

func snapshotListText(w io.Writer, list []infoSnapshot) {
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
		fmt.Fprintf(w, row, printable(s.ID), printable(s.Name), sizeText(s.StateSize), date, clock, icount)
	}
}

// A field is one line of format specific information.
type field struct {
	depth int
	name  string
	value any // nil for a heading
}

func fieldsText(w io.Writer, fields []field) {
	for _, f := range fields {
		fmt.Fprintf(w, "%*s%s:", 4*f.depth, "", f.name)
		switch v := f.value.(type) {
		case nil:
		case *bool:
			fmt.Fprint(w, " ", *v)
		default:
			fmt.Fprint(w, " ", printable(fmt.Sprint(v)))
		}
		fmt.Fprintln(w)
	}
}

func qcow2Text(w io.Writer, i *infoQcow2) {
	fields := []field{{1, "compat", i.Compat}, {1, "compression type", i.Compression}}
	if i.Lazy != nil {
		fields = append(fields, field{1, "lazy refcounts", i.Lazy})
	}
	fields = append(fields, bitmapFields(i.Bitmaps)...)
	fields = append(fields, field{1, "refcount bits", i.RefcountBit})
	if i.Encrypt != nil {
		fields = append(fields, encryptFields(i.Encrypt)...)
	}
	if i.DataFile != "" {
		fields = append(fields, field{1, "data file", i.DataFile})
	}
	if i.DataFileRaw != nil {
		fields = append(fields, field{1, "data file raw", i.DataFileRaw})
	}
	if i.Corrupt != nil {
		fields = append(fields, field{1, "corrupt", i.Corrupt}, field{1, "extended l2", i.ExtendedL2})
	}
	fieldsText(w, fields)
}

func bitmapFields(list []infoBitmap) []field {
	if len(list) == 0 {
		return nil
	}
	fields := []field{{1, "bitmaps", nil}}
	for i, b := range list {
		fields = append(fields, field{2, fmt.Sprintf("[%d]", i), nil}, field{3, "flags", nil})
		for k, flag := range b.Flags {
			fields = append(fields, field{4, fmt.Sprintf("[%d]", k), flag})
		}
		fields = append(fields, field{3, "name", b.Name}, field{3, "granularity", b.Granularity})
	}
	return fields
}

func encryptFields(e *infoEncrypt) []field {
	fields := []field{{1, "encrypt", nil}}
	if e.Format != "luks" {
		return append(fields, field{2, "format", e.Format})
	}
	fields = append(fields, field{2, "ivgen alg", e.IV}, field{2, "hash alg", e.Hash},
		field{2, "cipher alg", e.Cipher}, field{2, "uuid", e.UUID})
	if e.IVHash != "" {
		fields = append(fields, field{2, "ivgen hash alg", e.IVHash})
	}
	fields = append(fields, field{2, "format", e.Format}, field{2, "cipher mode", e.Mode}, field{2, "slots", nil})
	for i, s := range e.Slots {
		fields = append(fields, field{3, fmt.Sprintf("[%d]", i), nil}, field{4, "active", s.Active})
		if s.Active {
			fields = append(fields, field{4, "iters", *s.Iterations})
		}
		fields = append(fields, field{4, "key offset", s.Offset})
		if s.Active {
			fields = append(fields, field{4, "stripes", *s.Stripes})
		}
	}
	return append(fields, field{2, "payload offset", e.Payload}, field{2, "master key iters", e.Iterations})
}
