package vhdbridge

import (
	"bufio"
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// mostNames bounds what a file with names may hold, in bytes.
const mostNames = 1 << 30

// ReadNames reads what VDIs are called, by UUID: from a pool's database, as
// "xe pool-dump-database" writes it and /var/lib/xcp/state.db has it, or from the output of
// "xe vdi-list params=all". Errors tell the place.
func ReadNames(r io.Reader) (map[string]VDI, error) {
	in := bufio.NewReader(io.LimitReader(r, mostNames))
	head, err := in.Peek(256)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	read := readList
	if bytes.HasPrefix(bytes.TrimSpace(head), []byte("<")) {
		read = readDatabase
	}
	vdis, err := read(in)
	if err == nil && len(vdis) == 0 {
		err = errors.New("no VDI is in it: want a pool's database (xe pool-dump-database) or the output of xe vdi-list params=all")
	}
	return vdis, err
}

// A row is one of a table: values by name, and its reference.
type row map[string]string

// readDatabase reads xapi's database as XML (ocaml/database/db_xml.ml of xen-api): tables of
// rows, whose values are attributes with white space written by % (xml_spaces.ml).
func readDatabase(r io.Reader) (map[string]VDI, error) {
	tables := map[string][]row{"VDI": nil, "VBD": nil, "VM": nil}
	d := xml.NewDecoder(r)
	table := ""
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return namesOf(tables), nil
		}
		if err != nil {
			return nil, fmt.Errorf("byte %d: %w", d.InputOffset(), err)
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		values := row{}
		for _, a := range start.Attr {
			values[a.Name.Local] = unprotect.Replace(a.Value)
		}
		switch start.Name.Local {
		case "table":
			table = values["name"]
		case "row":
			if rows, wanted := tables[table]; wanted {
				tables[table] = append(rows, values)
			}
		}
	}
}

// unprotect undoes xapi's way to write white space.
var unprotect = strings.NewReplacer("%_", "  ", "%.", " ", "%t", "\t", "%n", "\n", "%r", "\r", "%%", "%")

func namesOf(tables map[string][]row) map[string]VDI {
	byRef := map[string]string{} // reference of a VDI → UUID
	for _, v := range tables["VDI"] {
		byRef[v["ref"]] = v["uuid"]
	}
	vms := map[string]row{}
	for _, v := range tables["VM"] {
		vms[v["ref"]] = v
	}
	vdis := map[string]VDI{}
	for _, v := range tables["VDI"] {
		n := VDI{UUID: v["uuid"], Name: v["name__label"], Description: v["name__description"], Managed: v["managed"] == "true",
			Snapshot: v["is_a_snapshot"] == "true", SnapshotOf: byRef[v["snapshot_of"]], ReadOnly: v["read_only"] == "true"}
		n.SnapshotTime, _ = xapiTime(v["snapshot_time"]) // left out where it is not known
		vdis[n.UUID] = n
	}
	for _, b := range tables["VBD"] {
		n, known := vdis[byRef[b["VDI"]]]
		if vm, there := vms[b["VM"]]; known && there && b["type"] == "Disk" {
			n.VM, n.Device = vm["name__label"], b["userdevice"]
			vdis[n.UUID] = n
		}
	}
	return vdis
}

// readList reads records of lines such as "name-label ( RW): text", with an empty line or a
// new uuid between them.
func readList(r io.Reader) (map[string]VDI, error) {
	vdis := map[string]VDI{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	var n VDI
	for number := 1; lines.Scan(); number++ {
		key, value, found := strings.Cut(lines.Text(), ":")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if name, _, ok := strings.Cut(key, "("); ok {
			key = strings.TrimSpace(name)
		}
		switch {
		case !found && key != "":
			return nil, fmt.Errorf("line %d: want KEY ( RO): VALUE, as xe writes it", number)
		case key == "uuid":
			n = VDI{UUID: value}
		}
		if n.UUID != "" && n.set(key, value) {
			vdis[n.UUID] = n
		}
	}
	return vdis, lines.Err()
}

// set takes one of xe's parameters; it tells whether it is one of a VDI's.
func (v *VDI) set(key, value string) bool {
	switch key {
	case "name-label":
		v.Name = value
	case "name-description":
		v.Description = value
	case "managed":
		v.Managed = value == "true"
	case "is-a-snapshot":
		v.Snapshot = value == "true"
	case "snapshot-of":
		if !strings.HasPrefix(value, "<") { // <not in database>
			v.SnapshotOf = value
		}
	case "snapshot-time":
		v.SnapshotTime, _ = xapiTime(value)
	case "read-only":
		v.ReadOnly = value == "true"
	default:
		return false
	}
	return true
}
