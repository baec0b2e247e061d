package pool

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// listLine is a parameter as xe prints it: "name-label ( RW): text". In the parentheses are
// S for a set, M for a map, and whether it can be written to.
var listLine = regexp.MustCompile(`^\s*([A-Za-z][A-Za-z0-9_-]*)\s+\(([ SM])R[OW]\)\s*:\s?(.*)$`)

// mostLine is the longest line that is read, in bytes.
const mostLine = 1 << 20

// readList reads what xe prints of objects of one class, or of several, one behind the other:
// records that begin with the UUID. Lines of other kinds belong to the text before them.
func readList(in io.Reader) (source []*record, err error) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, mostLine)
	var r *record
	last, group := "", 0 // the field before, and where the records of one list begin
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimRight(lines.Text(), "\r")
		m := listLine.FindStringSubmatch(line)
		switch {
		case m != nil && m[1] == "uuid":
			r = newRecord("", m[3])
			source = append(source, r)
			r.fields["uuid"] = m[3]
		case r == nil && strings.TrimSpace(line) == "":
		case r == nil:
			return nil, fmt.Errorf("line %d: want a record as xe writes it, which begins with uuid ( RO): UUID", number)
		case m == nil:
			r.extend(last, line)
			continue
		default:
			r.set(m[1], m[2], m[3])
		}
		last = field(m)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	for group < len(source) {
		group = classify(source, group)
	}
	return source, nil
}

func field(m []string) string {
	if m == nil {
		return ""
	}
	return fieldName(m[1])
}

// fieldName is what the data model calls a parameter of xe's.
func fieldName(key string) string {
	switch key {
	case "vm-uuid":
		return "VM"
	case "vdi-uuid":
		return "VDI"
	case "network-uuid":
		return "network"
	}
	return strings.ReplaceAll(key, "-", "_")
}

// mostText is how long a text of several lines may become, in bytes.
const mostText = 4096

func (r *record) extend(field, line string) {
	if text, there := r.fields[field]; there && field != "uuid" && strings.TrimSpace(line) != "" && len(text) < mostText {
		r.fields[field] = text + "\n" + line
	}
}

func (r *record) set(key, kind, value string) {
	name := fieldName(key)
	if strings.HasPrefix(value, "<not in database>") || strings.HasPrefix(value, "<unknown") {
		value = ""
	}
	if kind != "M" {
		r.fields[name] = value
		return
	}
	m := map[string]string{}
	for _, pair := range strings.Split(value, "; ") {
		if k, v, ok := strings.Cut(pair, ": "); ok {
			m[strings.TrimSpace(k)] = strings.TrimSpace(v)
		}
	}
	r.maps[name] = m
}

// classify finds out of what class the records from first on are, by what only one class has,
// and where those of the next list begin: xe does not tell.
func classify(source []*record, first int) (next int) {
	class := ""
	for next = first; next < len(source); next++ {
		own := source[next].kind()
		if own != "" && class != "" && own != class {
			break
		}
		if class == "" {
			class = own
		}
	}
	if class == "" {
		class = classVDI
	}
	for _, r := range source[first:next] {
		r.class = class
		if _, told := r.fields["is_a_snapshot"]; class == classVM && !told && r.fields["is_vmss_snapshot"] != "" {
			r.fields["is_a_snapshot"] = "true" // only xe snapshot-list shows that and not this
		}
	}
	return next
}

// kind is the class to which a field belongs that no other has.
func (r *record) kind() string {
	for _, c := range []struct {
		class  string
		fields []string
	}{
		{classVIF, []string{"MAC"}},
		{classVBD, []string{"VDI", "userdevice"}},
		{classVM, []string{"power_state", "VCPUs_max", "is_control_domain", "is_vmss_snapshot", "HVM_boot_policy"}},
		{classVDI, []string{"sr_uuid", "virtual_size", "managed", "vbd_uuids"}},
		{classNetwork, []string{"bridge"}},
	} {
		for _, f := range c.fields {
			if _, there := r.fields[f]; there {
				return c.class
			}
		}
	}
	return ""
}
