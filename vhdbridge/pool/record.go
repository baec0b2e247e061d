package pool

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
)

// Classes of xapi's data model that matter here.
const (
	classVM      = "VM"
	classVDI     = "VDI"
	classVBD     = "VBD" // how a VM has a VDI
	classVIF     = "VIF" // how a VM has a network
	classNetwork = "network"
	classMetrics = "VM_guest_metrics" // what the tools in the guest have told
)

func classes() []string {
	return []string{classVM, classVDI, classVBD, classVIF, classNetwork, classMetrics}
}

// references are the fields that name other records.
func references() map[string]string {
	return map[string]string{"VM": classVM, "VDI": classVDI, "network": classNetwork, "guest_metrics": classMetrics}
}

// A record is one object of xapi's. Names of fields are those of its data model.
type record struct {
	class, ref string
	fields     map[string]string
	maps       map[string]map[string]string
}

func newRecord(class, ref string) *record {
	return &record{class: class, ref: ref, fields: map[string]string{}, maps: map[string]map[string]string{}}
}

func (r *record) uuid() string { return r.fields["uuid"] }

// is tells whether a boolean is true, as the database, an export or xe writes it.
func (r *record) is(field string) bool {
	return r.fields[field] == "true" || r.fields[field] == "1"
}

// A Pool is what was read, of one source or of several.
type Pool struct {
	records map[string]map[string]*record // by class and UUID
	order   map[string][]string           // UUIDs by class, as they came
}

// add puts the records of one source to the others. What another source said of the same
// object stays where this one says nothing.
func (p *Pool) add(source []*record) {
	if p.records == nil {
		p.records, p.order = map[string]map[string]*record{}, map[string][]string{}
	}
	uuids := map[string]string{} // by class and reference
	for i, r := range source {
		if r.uuid() == "" { // what nobody refers to but by reference
			r.fields["uuid"] = cmp.Or(r.ref, fmt.Sprintf("record %d", i))
		}
		uuids[r.class+" "+r.ref] = r.uuid()
	}
	for _, r := range source {
		r.resolve(uuids)
		old := p.records[r.class][r.uuid()]
		switch {
		case old != nil:
			maps.Copy(old.fields, r.fields)
			maps.Copy(old.maps, r.maps)
		default:
			if p.records[r.class] == nil {
				p.records[r.class] = map[string]*record{}
			}
			p.records[r.class][r.uuid()] = r
			p.order[r.class] = append(p.order[r.class], r.uuid())
		}
	}
}

// resolve makes UUIDs of references. One that leads to nothing is none: NULL, or an object
// that the source has not. xe refers by UUID.
func (r *record) resolve(uuids map[string]string) {
	to := references()
	to["snapshot_of"] = r.class
	for field, class := range to {
		ref, there := r.fields[field]
		if uuid := uuids[class+" "+ref]; there && (uuid != "" || !uuidPattern.MatchString(ref)) {
			r.fields[field] = uuid
		}
	}
}

var uuidPattern = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// all lists the records of a class, as they came.
func (p *Pool) all(class string) (list []*record) {
	for _, uuid := range p.order[class] {
		list = append(list, p.records[class][uuid])
	}
	return list
}

func (p *Pool) get(class, uuid string) *record { return p.records[class][uuid] }

// knows tells whether anything of a class is there.
func knows(source []*record, class string) bool {
	return slices.ContainsFunc(source, func(r *record) bool { return r.class == class && r.uuid() != "" })
}
