package host

import "testing"

// Nothing keeps libvirt's records, which are files that can be edited, from going round in a circle.
func TestParentsInACircle(t *testing.T) {
	d := Domain{Snapshots: []Snapshot{{Name: "a", Parent: "b"}, {Name: "b", Parent: "c", Current: true}, {Name: "c", Parent: "a"}, {Name: "d", Parent: "d"}}}
	if !d.Descends(&d.Snapshots[0], "c") || d.Descends(&d.Snapshots[3], "a") || d.Descends(&d.Snapshots[0], "none") {
		t.Error("who descends from whom")
	}
	if s := Survivor(&d, []string{"a", "b", "c"}, "a"); s != "" {
		t.Errorf("%q survives", s)
	}
	if s := Survivor(&d, []string{"a", "b"}, "a"); s != "c" {
		t.Errorf("%q survives", s)
	}
	if s := d.WentBack(); s == nil || s.Name != "b" {
		t.Errorf("went back to %v", s)
	}
}
