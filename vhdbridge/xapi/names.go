package xapi

import (
	"bufio"
	"bytes"
	"encoding/xml"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// NamesFile is where Names puts what the pool calls its disks and guests.
const NamesFile = "pool.xml"

// protect writes white space as xapi does in its database (xml_spaces.ml).
var protect = strings.NewReplacer("%", "%%", "  ", "%_", "\t", "%t", "\n", "%n", "\r", "%r")

// Names writes what the pool says of the disks that are in the directory, and of the guests
// and snapshots that have them: as a pool's database, of which it is a part.
func (p *Puller) Names(v *Inventory) error {
	here := map[string]bool{}
	names, err := vfs.OS().ReadDir(p.Dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		here[strings.TrimSuffix(name, extension)] = true
	}
	var b bytes.Buffer
	if err := v.write(&b, here); err != nil {
		return err
	}
	return vfs.WriteFile(filepath.Join(p.Dir, NamesFile), b.Bytes(), mode)
}

// write writes the rows of what the disks of those UUIDs need.
func (v *Inventory) write(w io.Writer, here map[string]bool) error {
	t := tables{w: bufio.NewWriter(w)}
	t.text(`<?xml version="1.0" encoding="UTF-8"?>` + "\n<database>\n")
	vms := map[string]bool{}
	t.open("VDI")
	for _, d := range v.VDIs {
		if here[d.UUID] {
			t.row(vdiRow(d)...)
			if d.Snapshot && here[baseUUID(d.UUID)] {
				t.row("ref", "OpaqueRef:"+baseUUID(d.UUID), "uuid", baseUUID(d.UUID), "name__label", "base copy", "managed", "false", "is_a_snapshot", "false", "snapshot_of", nullRef)
			}
		}
	}
	t.next("VBD")
	for _, b := range v.VBDs {
		if d := v.vdis[b.VDI]; d != nil && here[d.UUID] && v.vms[b.VM] != nil {
			vms[b.VM] = true
			t.row("ref", b.Ref, "VM", b.VM, "VDI", b.VDI, "userdevice", b.Device, "type", b.Type)
		}
	}
	t.next("VM")
	for _, m := range v.VMs {
		if vms[m.Ref] {
			t.row(vmRow(m)...)
		}
	}
	t.text("</table>\n</database>\n")
	return t.end()
}

func vdiRow(d *VDI) []string {
	return []string{"ref", d.Ref, "uuid", d.UUID, "name__label", d.Name, "name__description", d.Description, "virtual_size", strconv.FormatInt(d.Size, 10),
		"type", d.Type, "managed", strconv.FormatBool(d.Managed), "read_only", strconv.FormatBool(d.ReadOnly), "is_a_snapshot", strconv.FormatBool(d.Snapshot),
		"snapshot_of", d.SnapshotOf, "snapshot_time", timeText(d.SnapshotTime)}
}

func vmRow(m *VM) []string {
	return []string{"ref", m.Ref, "uuid", m.UUID, "name__label", m.Name, "name__description", m.Description, "power_state", m.PowerState,
		"is_a_snapshot", strconv.FormatBool(m.Snapshot), "snapshot_of", m.SnapshotOf, "snapshot_time", timeText(m.SnapshotTime),
		"memory__static_max", strconv.FormatInt(m.Memory, 10), "VCPUs__max", strconv.FormatInt(m.VCPUs, 10), "HVM__boot_params", bootText(m.Firmware)}
}

// bootText is a map of one, as the database has it.
func bootText(firmware string) string {
	if firmware != "bios" && firmware != "uefi" {
		return "()"
	}
	return "(('firmware' '" + firmware + "'))"
}

// timeText is a time as xapi writes it; 1970 means none.
func timeText(t time.Time) string {
	if t.IsZero() {
		t = time.Unix(0, 0)
	}
	return t.UTC().Format("20060102T15:04:05Z")
}

// tables writes the database; the first error stays.
type tables struct {
	w   *bufio.Writer
	err error
}

func (t *tables) text(s string) {
	if t.err == nil {
		_, t.err = t.w.WriteString(s)
	}
}

func (t *tables) open(table string) { t.text(`<table name="` + table + `">` + "\n") }

func (t *tables) next(table string) {
	t.text("</table>\n")
	t.open(table)
}

// row writes one of names and values.
func (t *tables) row(pairs ...string) {
	t.text("<row")
	for i := 0; i < len(pairs); i += 2 {
		t.text(" " + pairs[i] + `="`)
		if t.err == nil {
			t.err = xml.EscapeText(t.w, []byte(protect.Replace(pairs[i+1])))
		}
		t.text(`"`)
	}
	t.text("/>\n")
}

func (t *tables) end() error {
	if t.err != nil {
		return t.err
	}
	return t.w.Flush()
}
