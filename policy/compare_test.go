package policy

import (
	"slices"
	"testing"
)

const comparePolicy = `[defaults]
keep.last     = 1
disks         = ["vd*", "nvme*"]
exclude_disks = ["vdz", "vdy"]

[policy.web]
domains = ["web-*", "wbe-1"]
exclude = ["web-old", "db-*"]

[policy.test]
domains       = ["*-test"]
disks         = ["sd*"]
exclude_disks = []

[policy.later]
domains = ["soon-*"]
disks   = ["xvda"]
`

func TestCompareTellsOverlapsAndWhatMatchesNothing(t *testing.T) {
	c := mustParse(t, comparePolicy).Compare([]Guest{
		{Name: "web-9-test", Disks: []string{"vda"}}, {Name: "web-1", Disks: []string{"vda", "vdz"}}, {Name: "web-old", Disks: []string{"nvme0n1"}},
		{Name: "db-test", Disks: []string{"vda"}}, {Name: "lone", Disks: nil}, {Name: "alone", Disks: []string{"vda"}},
	})
	if !slices.Equal(c.Uncovered, []string{"alone", "lone", "web-old"}) {
		t.Errorf("uncovered %q", c.Uncovered)
	}
	if want := `test.toml:11: policy.test.domains: domain "web-9-test" is matched by policy web (its domains: line 7) and by policy test (its domains: line 11): take it out of all but one with exclude = ["web-9-test"]`; c.Overlaps.Error() != want {
		t.Errorf("overlaps\n%s\nwant\n%s", c.Overlaps, want)
	}
	const want = `test.toml:3: defaults.disks: "nvme*" matches no writable disk of the domains concerned
test.toml:4: defaults.exclude_disks: "vdy" matches no writable disk of the domains concerned
test.toml:7: policy.web.domains: "wbe-1" matches no domain of this host
test.toml:8: policy.web.exclude: "db-*" takes no domain out on this host
test.toml:12: policy.test.disks: "sd*" matches no writable disk of the domains concerned
test.toml:16: policy.later.domains: "soon-*" matches no domain of this host`
	if c.Warnings.Error() != want {
		t.Errorf("warnings\n%s\nwant\n%s", c.Warnings, want)
	}
}

func TestCompareIsContentWhereAllFits(t *testing.T) {
	c := mustParse(t, "[policy.a]\ndomains = ['*']\nexclude = ['b']\ndisks = ['vd[!c]']\nkeep.last = 1").Compare([]Guest{{Name: "a", Disks: []string{"vda", "vdc"}}, {Name: "b", Disks: nil}})
	if len(c.Overlaps)+len(c.Warnings) > 0 || !slices.Equal(c.Uncovered, []string{"b"}) {
		t.Errorf("%+v", c)
	}
}
